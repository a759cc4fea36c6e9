"""What a backward keeps, recomputing it, and running out of GPU memory: one line that says where and what would fit."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import weakref
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_models import Silent, small_model
from helpers.training_runs import METHODS, SEQUENCES, started
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssm_tune.cli import main
from ssm_tune.config.compose import compose
from ssm_tune.config.groups import method_section
from ssm_tune.data.collator import collate
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.experiment import predict_and_score as evaluation
from ssm_tune.experiment import run
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.models import mamba
from ssm_tune.models.mamba import Mamba
from ssm_tune.records.record import read_record
from ssm_tune.sweeps.status import Results
from ssm_tune.training import recompute_plan as memory
from ssm_tune.training.activation_memory import ActivationMemory, estimate_activation_memory, saved_bytes
from ssm_tune.training.recompute_plan import NO_RECOMPUTE, Recompute, RecomputePlan, plan_recompute
from ssm_tune.training.train_step import TrainStep, label_loss
from ssm_tune.utils.errors import UserError

CELL = ["method=state_offset_y", "task=glue_sst2", "model=random", "model.tokenizer=tiny", "model.d_model=16",
        "model.n_layer=1", "data=sample", "train.epochs=1", "train.max_steps=3",
        "frozen=false", "device=cpu"]  # fmt: skip


def test_an_evaluation_without_memory_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*CELL, f"output_dir={tmp_path}", "checkpoint.steps=1"]

    def too_much(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("selective_scan: out of GPU memory on (64, 500, 32) bfloat16\nand more")

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "predict", too_much)
        assert main(asked) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "out of GPU memory (step 3" in said
    assert "selective_scan: out of GPU memory on (64, 500, 32)" in said
    assert "smaller decode.batch_size" in said
    assert main([*asked, "decode.batch_size=8"]) == 0
    assert "resuming this run (step 3" in capsys.readouterr().err


def test_training_without_memory_says_what_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*CELL, f"output_dir={tmp_path}", "checkpoint.steps=1", "train.batch_size=6"]
    plain, calls = TrainStep.backward, []

    def too_much(step: TrainStep, part: Any) -> None:
        calls.append(part.shape)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("rms_norm: out of GPU memory on (6, 40, 16)\nand more")
        plain(step, part)

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "backward", too_much)
        assert main(asked) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    rows, length, labels = calls[-1]
    assert rows == 6
    assert f"out of GPU memory (in training, step 3, on 6 x {length} tokens with {labels} label tokens" in said
    assert "rms_norm: out of GPU memory on (6, 40, 16)." in said
    assert "train.micro_batch=3 needs about" in said
    assert main([*asked, "train.micro_batch=3"]) == 0
    assert "resuming this run (step 2)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_recomputed_activations_train_to_the_same_bits(name: str, blocks: int) -> None:
    kept, again = started(name), started(name)
    again.adapter.model.recompute = blocks
    for training in (kept, again):
        training.fit(lambda epoch, step: None, Silent())
    assert kept.result.steps == again.result.steps
    for one, two in zip(kept.step.parameters, again.step.parameters, strict=True):
        assert torch.equal(one, two)


def counted_on(name: str, options: dict[str, Any] | None = None, **sizes: int) -> tuple[Mamba, ActivationMemory]:
    """A model in training with a method attached, and what was counted for them before."""
    model, method = small_model(**sizes), load_method(method_section(name, options))
    found = estimate_activation_memory(model, method, torch.float32)
    attach(model.train(), method)
    return model, found


@pytest.mark.parametrize("name", METHODS)
def test_the_footprint_is_what_autograd_keeps(name: str) -> None:
    model, found = counted_on(name, n_layer=12)
    counted = saved_bytes(model, 3, 300)
    assert found.layers * (3 * (300 * found.token + found.row) + found.batch) == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("state_offset", {}),
        ("lora", {}),
        ("prefix", {}),
        ("additional_scan", {"a_init": "s4d"}),
        ("lora", {"targets": ["in_proj", "x_proj", "dt_proj", "out_proj"]}),
        ("lora", {"targets": ["in_proj.z", "x_proj.dt", "x_proj.B", "dt_proj", "out_proj"], "use_dora": True}),
        ("lora", {"targets": ["in_proj", "x_proj.B"], "init": "pissa", "rank": 2}),
    ],
)
def test_loss_and_gradients_have_the_same_bits_whatever_is_recomputed(name: str, options: dict[str, object]) -> None:
    model = small_model(n_layer=4)
    adapter = attach(model.train(), load_method(method_section(name, options)))
    batch, found = collate(SEQUENCES[:3], 0, keys=[3, 1, 4]), []
    with torch.no_grad():  # dropout and offsets shall matter
        for number, parameter in enumerate(adapter.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    for model.recompute, model.recompute_selective in [
        (0, 0),
        (0, 1),
        (0, 4),
        (2, 1),
        (3, 9),
        *((n, 0) for n in range(1, 5)),
    ]:
        model.zero_grad()
        with model.randomness.of(batch.keys):
            loss = label_loss(model, batch)
            loss.backward()
        gradients = [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]
        found.append([loss.detach(), *gradients])
    assert len(found[0]) == 1 + len(list(adapter.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in found[0])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_each_block_that_is_recomputed_leaves_less_to_keep(name: str) -> None:
    """And as much as the footprint says: of recomputed blocks their inputs are all that autograd keeps outside."""
    model, found = counted_on(name, n_layer=8)
    counted = []
    for model.recompute in range(9):
        counted.append(saved_bytes(model, 3, 300))
        block = 3 * (300 * found.token + found.row) + found.batch
        gradients = block if model.recompute < 8 else 2 * block  # and the last block's activations, computed again
        over = found.needs(3, 300, 0, model.recompute) - gradients - counted[-1]
        assert -0.1 * block < over < block  # the first block keeps less than the others
    assert all(less < more for more, less in itertools.pairwise(counted))


@pytest.mark.parametrize("name", METHODS)
def test_a_block_that_is_partly_recomputed_keeps_less(name: str) -> None:
    model, found = counted_on(name, n_layer=6)
    whole, lean = (saved_bytes(model, 3, 300, partly=partly) for partly in (False, True))
    block = 3 * (300 * found.token + found.row) + found.batch
    assert found.spared > 0
    assert whole - lean == pytest.approx(found.layers * 3 * 300 * found.spared, abs=block)  # the first keeps less
    assert found.needs(3, 300, 10**6, 0) - found.needs(3, 300, 10**6, 2, 9) == pytest.approx(
        2 * block - 3 * 300 * (found.residual + 2 * found.added) + 4 * 3 * 300 * found.spared, rel=0.2
    )


class Live(TorchDispatchMode):
    """The most bytes that are alive at a time of what is made within it, ``known`` tensors apart."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = [tensor.untyped_storage() for tensor in known]
        self._sizes = {storage._cdata: 0 for storage in self._known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return made

    def _gone(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage)


def peak(model: Mamba, recomputed: Collection[int], labels: int) -> int:
    """Bytes of a step's forward and backward at their worst moment, when these blocks are recomputed."""
    sequences = [TokenizedExample([(7 * i + j) % 63 + 1 for j in range(201)], labels) for i in range(2)]
    batch = collate(sequences, 0, keys=[0, 1])
    model.zero_grad()
    with pytest.MonkeyPatch.context() as patch, model.randomness.of(batch.keys):
        patch.setattr(mamba, "recomputed_blocks", lambda layers, number: recomputed)
        with Live([*model.parameters(), batch.packed]) as live:
            label_loss(model, batch).backward()
    return live.peak


@pytest.mark.slow
def test_no_other_choice_of_as_many_blocks_has_a_lower_peak() -> None:
    model = small_model(n_layer=5)
    attach(model.train(), load_method(method_section("lora")))
    for number in range(6):
        chosen = peak(model, mamba.recomputed_blocks(5, number), 2)
        assert chosen <= 1.001 * min(peak(model, blocks, 2) for blocks in itertools.combinations(range(5), number))


def test_the_plan_is_the_peak_of_a_step() -> None:
    """Where logits make it; where a block's gradients do, the CPU's operations differ from a GPU's kernels."""
    model, found = counted_on("prompt", n_layer=6, vocab_size=5000)
    for number in range(7):
        assert peak(model, mamba.recomputed_blocks(6, number), 40) == pytest.approx(
            found.needs(2, 200, 80, number), rel=0.02
        )


@pytest.mark.parametrize(
    "targets", [["dt_proj", "x_proj.dt", "x_proj.B", "x_proj.C"], ["in_proj", "out_proj"]], ids=str
)
def test_the_plan_is_the_peak_of_a_step_that_is_partly_recomputed(targets: list[str]) -> None:
    model, found = counted_on("lora", {"targets": targets}, n_layer=6, vocab_size=5000)
    found_peaks, needs = [], []
    for model.recompute_selective in (0, 2, 6):
        found_peaks.append(peak(model, (), 40))
        needs.append(found.needs(2, 200, 80, 0, model.recompute_selective))
        assert found_peaks[-1] == pytest.approx(needs[-1], rel=0.03)  # the first block keeps less than the others
    assert found_peaks[0] - found_peaks[-1] == pytest.approx(needs[0] - needs[-1], rel=0.15)


def test_what_is_not_differentiated_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(n_layer=2)
    attach(model.train(), load_method(method_section("lora")))
    model.recompute_selective = 2
    with Live(model.parameters()) as live:
        for _ in range(2):
            model.hidden(torch.zeros(2, 30, dtype=torch.int64))
            gc.collect()
            left = live.now
            assert left < 10_000  # bits of dropout; a block keeps ten times as much


GB = 1e9
PLAIN = ActivationMemory(
    token=1e6, row=0, batch=0, residual=8e4, added=2e4, label=3e4, layers=10
)  # 1.1 GB for 100 tokens, or 0.3


def planned(memory_gb: float | None, recompute: str = "auto", rows: int = 4) -> RecomputePlan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "estimate_activation_memory", lambda *_: PLAIN)
        method = load_method(method_section("state_offset"))
        return plan_recompute(small_model(), method, torch.float32, (rows, 100 // rows, 10), recompute, memory_gb)


def test_the_plan_keeps_to_the_budget() -> None:
    assert PLAIN.needs(4, 25, 0, recompute=0) == pytest.approx(1.1e9)
    assert PLAIN.needs(4, 25, 0, recompute=3) == pytest.approx(0.806e9)
    assert PLAIN.needs(4, 25, 0, recompute=9) == pytest.approx(0.29e9)  # the last block's recomputation saves nothing,
    assert PLAIN.needs(4, 25, 0, recompute=10) == pytest.approx(0.3e9)  # unless there are many logits:
    assert PLAIN.needs(4, 25, 20_000, recompute=9) == pytest.approx(0.79e9)
    assert PLAIN.needs(4, 25, 20_000, recompute=10) == pytest.approx(0.7e9)
    assert planned(None).recompute == planned(2.0).recompute == NO_RECOMPUTE
    assert [planned(memory_gb).recompute for memory_gb in (1.09, 1.0, 0.5, 0.295)] == [(1, 0), (2, 0), (7, 0), (9, 0)]
    assert planned(None, "on").recompute == (10, 0)
    assert planned(2.0, "off").recompute == NO_RECOMPUTE
    line = planned(1.0).line()
    assert line.endswith("recomputed in 2 of 10 blocks, about 0.904 GB of 1 GB (without recomputing 1.1 GB)")
    assert planned(2.0).line().endswith("(4 x 25 tokens): kept, about 1.1 GB of 2 GB")


def test_parts_of_blocks_come_before_blocks() -> None:
    found = dataclasses.replace(PLAIN, spared=3e5)  # 0.03 GB of a block's 0.1
    ways = [RecomputePlan(found, 1e9 * budget, 4, 25, 10, "auto") for budget in (2.0, 1.05, 0.83, 0.8, 0.3)]
    assert [way.recompute for way in ways] == [(0, 0), (0, 2), (0, 9), (1, 10), (9, 10)]
    assert "recomputed in parts of 2 of 10 blocks, about 1.04 GB" in ways[1].line()
    assert "recomputed in 1 of 10 blocks and parts of the others" in ways[3].line()
    assert RecomputePlan(found, None, 4, 25, 10, "on").recompute == (10, 0)
    # parts of the last block are made again at the worst moment
    assert found.needs(4, 25, 0, 0, 9) == pytest.approx(1.1e9 - 9 * 0.03e9)
    assert found.needs(4, 25, 0, 0, 10) == pytest.approx(1.1e9 - 9 * 0.03e9)
    assert found.needs(4, 25, 10_000, 0, 10) == pytest.approx(1.3e9 - 10 * 0.03e9)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.floats(1e6, 5e7), st.integers(0, 50_000), st.floats(0.01, 1.5))
def test_auto_recomputes_as_few_blocks_as_the_budget_allows(
    layers: int, token: float, labels: int, share: float
) -> None:
    found = ActivationMemory(token, row=0, batch=0, residual=8e4, added=2e4, label=3e4, layers=layers)
    needs = [found.needs(4, 25, labels, number) for number in range(layers + 1)]
    chosen = RecomputePlan(found, share * needs[0], 4, 25, labels, "auto").recompute.whole
    fitting = [number for number in range(layers + 1) if needs[number] <= share * needs[0]]
    assert chosen == min(fitting) if fitting else needs[chosen] == min(needs)


def test_a_batch_beyond_the_budget_is_refused_with_what_fits() -> None:
    with pytest.raises(UserError, match=r"train.memory=1: the longest batch, 4 x 25 tokens, needs about 1\.1 GB .* "
                                        r"nothing recomputed.* train\.micro_batch=2 needs about 0\.55 GB"):  # fmt: skip
        planned(1.0, "off")
    with pytest.raises(UserError, match=r"in 9 of 10 blocks, and there are 0\.2 GB: train\.micro_batch=2 needs "
                                        r"about 0\.19 GB, recomputing 8 of 10 blocks,"):  # fmt: skip
        planned(0.2)
    with pytest.raises(
        UserError, match=r"1 x 100 .* nothing recomputed.*: train\.recompute=auto .* recomputing 2 of 10"
    ):
        planned(1.0, "off", rows=1)
    with pytest.raises(UserError, match=r"even one example at a time, recomputed, needs about 0\.0725"):
        planned(0.05)
    assert planned(None).advice(1).startswith("train.recompute=on needs about")


def test_a_batch_that_was_to_fit_and_did_not_is_not_planned_as_large_again() -> None:
    tight = planned(0.6)
    assert tight.recompute == (6, 0)
    assert tight.needs(2, NO_RECOMPUTE) > 0.9 * 0.6e9  # what micro batches of two would take, with nothing recomputed
    assert tight.advice(4).startswith("train.micro_batch=1 needs about 0.275 GB, recomputing 0 of 10 blocks")
    assert (
        planned(0.6, rows=1).advice(1).startswith("train.recompute=on needs about 0.3 GB, recomputing 10 of 10 blocks")
    )


def test_a_run_says_and_records_what_it_does_with_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plans: list[RecomputePlan] = []

    def plan_memory(*about: Any, planned: Callable[..., RecomputePlan] = run.plan_memory) -> RecomputePlan:
        plans.append(planned(*about))
        return plans[-1]

    monkeypatch.setattr(run, "plan_memory", plan_memory)
    cell = [*CELL, "model.n_layer=4", f"output_dir={tmp_path}"]
    assert main([*cell, "train.memory=0.00001"]) == 2
    said = capsys.readouterr().err
    assert "train.memory=1e-05: the longest batch, 4 x " in said
    assert main([*cell, "train.recompute=on", "train.micro_batch=2", "train.deterministic=true"]) == 0
    assert "(2 x " in capsys.readouterr().err
    (path,) = tmp_path.rglob("record.json")
    backend = read_record(path)["backend"]
    assert (backend["recomputed_blocks"], backend["micro_batch"], backend["deterministic"]) == (4, 2, True)
    assert Results(tmp_path).state(compose(cell)).status == "done"  # however it was computed, it is the same cell
    assert main(cell) == 0
    assert "this run is done already" in capsys.readouterr().err
    budget = plans[-1].needs(2, Recompute(2, 4)) / 1e9
    assert main([*cell, "force=true", f"train.memory={budget}", "train.micro_batch=2"]) == 0
    assert "recomputed in 2 of 4 blocks and parts of the others, about " in capsys.readouterr().err
    backend = read_record(path)["backend"]
    assert (backend["recomputed_blocks"], backend["partly_recomputed_blocks"]) == plans[-1].recompute == (2, 4)
