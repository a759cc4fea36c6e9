"""Decoding: the searches on given logits against the plain reference and the official scorer; then models."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.beam_reference import Step
from helpers.decoding_problems import problems
from helpers.decoding_ties import Recorder, compare
from helpers.toy_decoders import DTYPES, TableModel, expected, small_mamba, tuned_mamba, varied_prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssm_tune.config.groups import names
from ssm_tune.generation.beam_search import new_search
from ssm_tune.generation.candidates import first_candidates
from ssm_tune.generation.generate import generate
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError

# ------------------------------------------------------------------ candidates


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_first_candidates_equal_a_stable_sort_of_everything(data: st.DataObject) -> None:
    examples, beams = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    vocab = data.draw(st.integers(2, 13) | st.integers(2, 90))
    shared = data.draw(st.booleans())
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    levels = data.draw(st.sampled_from([1, 2, 5, 1000]))
    shape = (examples, 1 if shared else beams, vocab)
    log_probs = -torch.randint(levels, shape, generator=generator) / 8
    log_probs[torch.rand(shape, generator=generator) < data.draw(st.sampled_from([0, 0.1, 0.9]))] = -math.inf
    log_probs = log_probs.to(data.draw(st.sampled_from(list(DTYPES.values()))))
    scores = -torch.randint(3, (examples, beams), generator=generator) / 4
    scores[:, data.draw(st.integers(0, beams)) :] = -1e9

    best, index = first_candidates(log_probs, scores, 2 * beams)

    everything = (log_probs.float() + scores.unsqueeze(2)).flatten(1)
    order = torch.sort(everything, dim=1, descending=True, stable=True)
    assert index.tolist() == order.indices[:, : 2 * beams].tolist()
    assert best.tolist() == order.values[:, : 2 * beams].tolist()


def test_first_candidates_at_the_real_vocabulary_in_bf16_where_ties_cross_the_cut() -> None:
    logits = torch.randn(6, 50_277, generator=torch.Generator().manual_seed(0)).bfloat16()
    log_probs = torch.log_softmax(logits, -1).view(2, 3, -1)
    scores = torch.tensor([[0.0, -1e9, -1e9], [-1.5, -1.25, -1.5]])
    best, index = first_candidates(log_probs, scores, 6)
    order = torch.sort((log_probs + scores.unsqueeze(2)).flatten(1), dim=1, descending=True, stable=True)
    assert index.tolist() == order.indices[:, :6].tolist()
    assert best.tolist() == order.values[:, :6].tolist()
    assert (order.values[:, 5] == order.values[:, 6]).any(), "this case is meant to have a tie at the cut"


# ------------------------------------------------------------------ the search


@settings(deadline=None, max_examples=250)
@given(problems())
def test_many_examples_at_once_give_the_tokens_of_each_alone(
    problem: tuple[TableModel, list[list[int]], DecodeSettings],
) -> None:
    model, prompts, chosen = problem
    assert generate(model, prompts, chosen) == [expected(model, prompt, chosen) for prompt in prompts]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_short_prompts_may_not_end_before_the_minimum_length(num_beams: int) -> None:
    model = TableModel(1, 12, eos_id=3, boost=100, dtype=torch.float32)  # EOS wins wherever it is allowed
    prompts = [[1] * length for length in range(1, 8)]
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=10, eos_id=3)
    lengths = [len(output) for output in generate(model, prompts, chosen)]
    assert lengths == [max(0, 5 - len(prompt)) for prompt in prompts]


@pytest.mark.parametrize("num_beams", [1, 5])
def test_rows_leave_as_their_examples_end_and_progress_counts_them(num_beams: int) -> None:
    model = Recorder(TableModel(5, 30, eos_id=0, boost=6, dtype=torch.bfloat16))
    prompts = [[2 + at] * (1 + at % 6) for at in range(20)]
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=15, batch_size=20)
    calls: list[tuple[int, int]] = []
    outputs = generate(model, prompts, chosen, on_progress=lambda done, total: calls.append((done, total)))

    steps = []
    for prompt, output in zip(prompts, outputs, strict=True):
        log: list[Step] = []
        assert output == expected(model.model, prompt, chosen, log)
        steps.append(len(log))
    assert len(set(steps)) > 3, "the examples are meant to end at different steps"
    # The logits of step s + 1 are computed for the examples that are open after step s, and for no others.
    open_after = [sum(length > step for length in steps) for step in range(1, max(steps))]
    assert model.rows_per_step == [num_beams * count for count in open_after]
    assert calls == sorted(set(calls))
    assert calls[-1] == (20, 20)

    calls.clear()
    in_parts = generate(model, prompts, chosen, batch_size=7, on_progress=lambda *call: calls.append(call))
    assert in_parts == outputs
    assert calls == sorted(set(calls))
    assert {(7, 20), (14, 20), (20, 20)} <= set(calls)


def test_log_probabilities_take_the_dtype_of_the_logits() -> None:
    """2**-12 and 0 differ in bfloat16 too, but the log-probabilities tie; then the later one wins."""
    row = torch.tensor([-9.0, 2**-12, 0.0, -0.5])
    for dtype, first in ((torch.float32, 1), (torch.bfloat16, 2)):
        chosen = DecodeSettings(num_beams=2, max_new_tokens=1)
        search = new_search([5], [1], len(row), chosen, 1, torch.device("cpu"))
        search.advance(row.to(dtype).unsqueeze(0))
        assert search.results([0]) == [[first]]


# ------------------------------------------------------------------ a real model


class NoisyTableModel(TableModel):
    """Logits that depend a little on the number of rows, as a real model's do, only more."""

    def prefill(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, TableModel.Cache]:
        logits, cache = super().prefill(input_ids, lengths)
        return self._noisy(logits), cache

    def step(self, tokens: Tensor, cache: TableModel.Cache) -> Tensor:
        return self._noisy(super().step(tokens, cache))

    def _noisy(self, logits: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(len(logits))
        return logits + 0.05 * torch.rand(logits.shape, generator=generator)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_divergences_that_noise_causes_are_found_and_measured(num_beams: int) -> None:
    """The measure itself: enough examples diverge, in decisions of every kind, all by less than the noise."""
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=12)
    results = []
    for seed in range(8):
        model = NoisyTableModel(seed, 40, eos_id=0, boost=4, dtype=torch.float32)
        results += compare(model, varied_prompts(40), chosen)
    diverged = [result for result in results if result.decision]
    assert len(diverged) > 5
    assert all(0 <= result.margin <= result.change for result in diverged)
    assert all(0 < result.logit_difference < 0.051 for result in results)
    assert all(result.margin <= 2 * 12 * 2 * result.logit_difference for result in diverged)


def test_rows_that_get_mixed_up_show_as_a_difference_of_logits() -> None:
    class Mixing(TableModel.Cache):
        def select(self, index: Tensor) -> None:
            super().select(index.roll(1))

    class MixingModel(TableModel):
        Cache = Mixing

    model = MixingModel(0, 40, eos_id=0, boost=4, dtype=torch.float32)
    results = compare(model, varied_prompts(40), DecodeSettings(num_beams=4, max_new_tokens=12))
    assert max(result.logit_difference for result in results) > 1


@pytest.mark.parametrize("num_beams", [1, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_decoding_together_differs_from_alone_by_rounding_only(
    num_beams: int, dtype: torch.dtype, tolerance: float
) -> None:
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=24)
    results = compare(small_mamba(dtype=dtype), varied_prompts(48), chosen)
    assert len({tuple(result.together) for result in results}) > 6, "the prompts are meant to matter"
    for result in results:
        assert result.logit_difference <= tolerance * result.logit_scale
        if result.decision:
            print(result)
            assert result.margin <= result.change
    if dtype is torch.float32:
        assert sum(bool(result.decision) for result in results) <= 1


def hf_twin(model: Mamba) -> nn.Module:
    """transformers' MambaForCausalLM with the weights of ``model``."""
    transformers = pytest.importorskip("transformers")
    config = model.config
    twin = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layer,
            tie_word_embeddings=config.tie_embeddings,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    weights = {name.replace("embedding.", "embeddings."): value for name, value in model.state_dict().items()}
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    return twin.eval()


def test_greedy_equals_transformers() -> None:
    model, prompts = small_mamba(1), varied_prompts(48)
    twin = hf_twin(model)
    ours = generate(model, prompts, num_beams=1, max_new_tokens=20, min_length=0)
    for prompt, output in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = twin.generate(ids, do_sample=False, max_new_tokens=20, attention_mask=torch.ones_like(ids))
        theirs = theirs[0, len(prompt) :].tolist()
        assert output == (theirs[: theirs.index(0)] if 0 in theirs else theirs)


def test_beams_equal_transformers_where_no_sequence_can_end() -> None:
    """Newer versions of transformers stop by other rules; without EOS nothing is left but the beams."""
    model, prompts = small_mamba(2), varied_prompts(48, 6)
    twin = hf_twin(model)
    ours = generate(model, prompts, num_beams=4, max_new_tokens=12, min_length=1000)
    for prompt, output in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        options = {"do_sample": False, "num_beams": 4, "max_new_tokens": 12, "min_new_tokens": 12}
        theirs = twin.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert output == theirs[0, len(prompt) :].tolist()


# ------------------------------------------------------------------ the public function


def test_tensors_and_lists_and_both_forms_of_settings_agree() -> None:
    model = small_mamba()
    ids = torch.randint(48, (3, 6), generator=torch.Generator().manual_seed(0))
    outputs = generate(model, ids, num_beams=3, max_new_tokens=7)
    assert outputs == generate(model, ids.tolist(), DecodeSettings(num_beams=3, max_new_tokens=7))
    assert all(outputs)
    assert generate(model, []) == []


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_interruption_passes_and_leaves_the_model_as_it_was(num_beams: int) -> None:
    model = small_mamba().train()
    model.backbone.layers[1].eval()
    before = [module.training for module in model.modules()]
    inside = []

    def interrupt(tokens: Tensor, cache: object) -> Tensor:
        inside.append((model.training, torch.is_grad_enabled()))
        raise KeyboardInterrupt

    model.step = interrupt
    with pytest.raises(KeyboardInterrupt):
        generate(model, [[1, 2, 3]], num_beams=num_beams)
    assert inside == [(False, False)]
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(num_beams: int, value: float) -> None:
    model = small_mamba()
    with torch.no_grad():
        model.backbone.norm_f.weight[0] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        generate(model, [[1, 2]], num_beams=num_beams)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1, got 0"),
        ({"num_beams": 2.5}, "num_beams"),
        ({"num_beams": True}, "num_beams"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"min_length": -1}, "min_length"),
        ({"batch_size": 0}, "batch_size"),
        ({"eos_id": -1}, "eos_id"),
        ({"eos_id": 48}, "eos_id 48 is outside the model's vocabulary of 48"),
        ({"length_penalty": math.nan}, "length_penalty"),
        ({"length_penalty": "1"}, "length_penalty"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        generate(small_mamba(), [[1]], **options)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([[1], []], "prompt 1 is empty"),
        ([[1], [2, 48]], "prompt 1 holds token 48"),
        ([[-1]], "prompt 0 holds token -1"),
        (torch.zeros(2, 0, dtype=torch.int64), "prompt 0 is empty"),
        (torch.zeros(4, dtype=torch.int64), r"tensor \(B, L\)"),
        (torch.zeros(2, 3), r"tensor \(B, L\)"),
        ("a text", "token ids"),
        (["a text"], "token ids"),
        ([1, 2], "token ids"),
    ],
)
def test_prompts_that_cannot_work_are_refused(prompts: list | str | Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        generate(small_mamba(), prompts)


@pytest.mark.parametrize("name", names("method"))
@pytest.mark.parametrize("num_beams", [1, 5])
def test_with_every_method_together_differs_from_alone_by_rounding_only(name: str, num_beams: int) -> None:
    """Prompts of different lengths; each divergence is printed, and its margin must be what rounding can change."""
    model = tuned_mamba(name)
    prompts = varied_prompts(model.config.vocab_size)
    for result in compare(model, prompts, DecodeSettings(num_beams=num_beams, max_new_tokens=12)):
        if result.decision:
            print(name, result)
        assert result.logit_difference <= 1e-4 * result.logit_scale
        assert result.margin <= result.change
