"""Continuous batching, on a CPU and without capture: the tokens of decoding in batches and of the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import pytest
import torch
from helpers.beam_reference import table
from helpers.decoding_problems import official_cases, problems
from helpers.decoding_ties import compare
from helpers.toy_decoders import TableModel, expected, tuned_mamba, varied_prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssm_tune.config.groups import names
from ssm_tune.generation.batches import length_batches
from ssm_tune.generation.beam_search import new_search
from ssm_tune.generation.continuous_batching import SYNC_EVERY, ContinuousBatching
from ssm_tune.generation.generate import inference
from ssm_tune.generation.settings import DecodeSettings

Problem = tuple[TableModel, list[list[int]], DecodeSettings]


def decode_continuously(
    model: Any,
    prompts: list[list[int]],
    chosen: DecodeSettings,
    skip: Container[int] = (),
    poll: Callable[[], None] = lambda: None,
    limits: list[int] | None = None,
) -> list[list[int] | None]:
    """The outputs, and None for those that are skipped."""
    outputs: list[list[int] | None] = [None] * len(prompts)

    def keep(numbers: list[int], found: list[list[int]]) -> None:
        for at, output in zip(numbers, found, strict=True):
            assert outputs[at] is None
            outputs[at] = output

    with inference(model):
        batching = ContinuousBatching(model, prompts, chosen, keep, poll, None, limits)
        batching.run(length_batches([len(prompt) for prompt in prompts], chosen.batch_size or len(prompts)), skip)
    return outputs


@settings(deadline=None, max_examples=150)
@given(problems())
def test_continuous_batching_gives_the_tokens_of_the_reference(problem: Problem) -> None:
    model, prompts, chosen = problem
    outputs = decode_continuously(model, prompts, chosen)
    assert outputs == [expected(model, prompt, chosen) for prompt in prompts]


def test_tokens_equal_the_official_scorer() -> None:
    """400 cases that ``make_beam_cases.py`` ran through the BeamSearchScorer of transformers 4.40.2."""
    for case in official_cases():
        dtype = getattr(torch, case["dtype"])
        logits = table(case["seed"], case["vocab"], case["eos_id"], case["boost"], dtype, case["levels"])
        options = ("num_beams", "min_length", "max_new_tokens", "length_penalty", "eos_id")
        chosen, limit = DecodeSettings(**{name: case[name] for name in options}), case["max_new_tokens"]
        search = new_search([case["prompt_length"]], [limit], case["vocab"], chosen, limit, torch.device("cpu"))
        histories: list[tuple[int, ...]] = [()]
        while True:
            search.advance(torch.stack([logits(history) for history in histories]))
            if not search.status()[0][0]:
                break
            rows = zip(search.parent_rows().tolist(), search.tokens.flatten().tolist(), strict=True)
            histories = [(*histories[row], token) for row, token in rows]
        assert search.results([0]) == [case["tokens"]], case


class Offset(TableModel):
    """Logits that depend on how many rows there are, as a GPU's do in the last digits, only more."""

    def prefill(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, TableModel.Cache]:
        logits, cache = super().prefill(input_ids, lengths)
        return self._offset(logits), cache

    def step(self, *arguments: Any) -> Tensor:
        return self._offset(super().step(*arguments))

    def _offset(self, logits: Tensor) -> Tensor:
        return logits + torch.rand(logits.shape[1], generator=torch.Generator().manual_seed(len(logits)))


@settings(deadline=None, max_examples=100)
@given(problems(), st.integers(0, 127))
def test_what_is_done_already_changes_nothing_for_the_others(problem: Problem, done: int) -> None:
    model, prompts, chosen = problem
    model.__class__ = Offset
    skip = {at for at in range(len(prompts)) if done >> at & 1}
    whole, rest = decode_continuously(model, prompts, chosen), decode_continuously(model, prompts, chosen, skip)
    assert rest == [None if at in skip else output for at, output in enumerate(whole)]


@settings(deadline=None, max_examples=50)
@given(problems(), st.lists(st.integers(1, 14), min_size=7, max_size=7))
def test_each_example_may_have_a_limit_of_its_own(problem: Problem, limits: list[int]) -> None:
    model, prompts, chosen = problem
    options = {name: getattr(chosen, name) for name in ("num_beams", "min_length", "length_penalty", "eos_id")}
    each = [DecodeSettings(max_new_tokens=limit, **options) for limit in limits[: len(prompts)]]
    wanted = [expected(model, prompt, own) for prompt, own in zip(prompts, each, strict=True)]
    assert decode_continuously(model, prompts, chosen, limits=limits[: len(prompts)]) == wanted


@pytest.mark.parametrize("num_beams", [1, 4])
def test_places_are_filled_again_and_the_host_looks_every_few_steps(num_beams: int) -> None:
    model = TableModel(5, 30, eos_id=0, boost=6, dtype=torch.bfloat16)
    prompts = [[2 + at] * (1 + at % 6) for at in range(20)]
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=15, batch_size=3)
    rows, reads = [], []
    step = model.step

    def counted(tokens: Tensor, *more: Any) -> Tensor:
        rows.append(len(tokens))
        return step(tokens, *more)

    model.step = counted
    outputs = decode_continuously(model, prompts, chosen, poll=lambda: reads.append(len(rows)))
    assert set(rows) == {3 * num_beams}
    assert reads == list(range(0, len(rows), SYNC_EVERY))
    needed = sum(len(output) for output in outputs)
    assert len(rows) * 3 < 2 * needed + 20 * SYNC_EVERY, "places are meant to be busy"


@pytest.mark.parametrize("name", names("method"))
@pytest.mark.parametrize("num_beams", [1, 5])
def test_with_every_method_continuous_batching_differs_from_alone_by_rounding_only(name: str, num_beams: int) -> None:
    model = tuned_mamba(name)
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=12, batch_size=5)
    for result in compare(model, varied_prompts(48), chosen, decode_continuously):
        assert result.logit_difference <= 1e-4 * result.logit_scale
        assert result.margin <= result.change


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("when", ["prompt", "step"])
def test_logits_that_are_not_finite_are_refused_with_the_prompts_number(num_beams: int, when: str) -> None:
    model = TableModel(1, 12, eos_id=3, boost=-8, dtype=torch.float32)
    chosen = DecodeSettings(num_beams=num_beams, max_new_tokens=9, eos_id=3, batch_size=3)
    spoilt: nn.Module = model
    method = {"prompt": "prefill", "step": "step"}[when]
    work = getattr(model, method)

    def spoil(*arguments: Any) -> Any:
        found = work(*arguments)
        (found[0] if when == "prompt" else found)[0] = math.nan
        return found

    setattr(spoilt, method, spoil)
    token = {"prompt": 1, "step": 2}[when]
    with pytest.raises(FloatingPointError, match=f"not finite at generated token {token} of prompt 1"):
        decode_continuously(model, [[1], [2, 2], [3]], chosen)
