"""What a backward keeps, recomputing it, and running out of GPU memory: one line that says where and what would fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import Silent, small_model
from test_step import METHODS, SEQUENCES, started

from ssm_tune import evaluation, memory
from ssm_tune.batching import collate
from ssm_tune.cli import main
from ssm_tune.compose import compose
from ssm_tune.config import method_section
from ssm_tune.errors import UserError
from ssm_tune.loop import train
from ssm_tune.memory import Footprint, Plan, footprint, plan
from ssm_tune.methods.base import attach, load_method
from ssm_tune.record import read_record
from ssm_tune.states import Results
from ssm_tune.step import Step, label_loss

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
        patched.setattr(evaluation, "classify", too_much)
        assert main(asked) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "out of GPU memory (step 3" in said
    assert "selective_scan: out of GPU memory on (64, 500, 32)" in said
    assert "smaller decode.batch_size" in said
    assert main([*asked, "decode.batch_size=8"]) == 0
    assert "resuming this cell (step 3" in capsys.readouterr().err


def test_training_without_memory_says_what_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*CELL, f"output_dir={tmp_path}", "checkpoint.steps=1", "train.batch_size=6"]
    plain, calls = Step.backward, []

    def too_much(step: Step, part: Any) -> None:
        calls.append(part.shape)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("rms_norm: out of GPU memory on (6, 40, 16)\nand more")
        plain(step, part)

    with monkeypatch.context() as patched:
        patched.setattr(Step, "backward", too_much)
        assert main(asked) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    rows, length, labels = calls[-1]
    assert rows == 6
    assert f"out of GPU memory (in training, step 3, on 6 x {length} tokens with {labels} label tokens" in said
    assert "rms_norm: out of GPU memory on (6, 40, 16)." in said
    assert "train.micro_batch=3 needs about" in said
    assert main([*asked, "train.micro_batch=3"]) == 0
    assert "resuming this cell (step 2)" in capsys.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_recomputed_activations_train_to_the_same_bits(name: str) -> None:
    kept, again = started(name), started(name)
    again.adapter.model.recompute = True
    for training in (kept, again):
        train(training, lambda epoch, step: None, Silent())
    assert kept.trained.steps == again.trained.steps
    for one, two in zip(kept.step.parameters, again.step.parameters, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", METHODS)
def test_the_footprint_is_what_autograd_keeps(name: str) -> None:
    model, method = small_model(n_layer=12), load_method(method_section(name))
    found = footprint(model, method, torch.float32)
    attach(model, method)
    model.train()
    counted = memory._kept(model, 3, 300)
    assert found.layers * (3 * (300 * found.token + found.row) + found.batch) == pytest.approx(counted, rel=0.15)


def test_recomputing_keeps_less() -> None:
    """By what autograd keeps outside of the blocks, where the footprint says that a block's inputs are all."""
    model, method = small_model(n_layer=6), load_method(method_section("lora"))
    attach(model, method)
    batch, held = collate(SEQUENCES[:3], 0), []
    for model.recompute in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: (sizes.append(x.numel()), x)[1],
            lambda x: x,  # type: ignore[misc]
        ):
            label_loss(model, batch).backward()
        held.append(sum(sizes))
    assert held[1] < held[0] / 3


GB = 1e9
PLAIN = Footprint(token=1e6, row=0, batch=0, stream=1e5, label=1e4, layers=10)  # 1.1 GB for 100 tokens, or 0.3


def planned(memory_gb: float | None, recompute: str = "auto", rows: int = 4) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "footprint", lambda *_: PLAIN)
        method = load_method(method_section("state_offset"))
        return plan(small_model(), method, torch.float32, (rows, 100 // rows, 10), recompute, memory_gb)


def test_the_plan_keeps_to_the_budget() -> None:
    assert PLAIN.needs(4, 25, 0, recompute=False) == pytest.approx(1.1e9)
    assert PLAIN.needs(4, 25, 0, recompute=True) == pytest.approx(0.3e9)
    assert not planned(None).recompute
    assert not planned(2.0).recompute
    assert planned(1.0).recompute
    assert planned(None, "on").recompute
    assert "computed again block by block, about 0.3 GB of 1 GB (kept they would take 1.1 GB)" in planned(1.0).line()
    assert planned(2.0).line().endswith("(4 x 25 tokens): kept, about 1.1 GB of 2 GB")


def test_a_batch_beyond_the_budget_is_refused_with_what_fits() -> None:
    with pytest.raises(UserError, match=r"train.memory=1: the longest batch, 4 x 25 tokens, needs about 1\.1 GB .* "
                                        r"train\.micro_batch=2 needs about 0\.55 GB"):  # fmt: skip
        planned(1.0, "off")
    with pytest.raises(UserError, match=r"train\.micro_batch=2 needs about 0\.15 GB"):
        planned(0.2)
    with pytest.raises(UserError, match=r"even one example at a time, recomputed, needs about 0\.075"):
        planned(0.05)
    assert planned(None).advice(1).startswith("train.recompute=on needs about")


def test_a_run_says_and_records_what_it_does_with_activations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = [*CELL, "model.n_layer=4", f"output_dir={tmp_path}"]
    assert main([*cell, "train.memory=0.00001"]) == 2
    said = capsys.readouterr().err
    assert "train.memory=1e-05: the longest batch, 4 x " in said
    assert main([*cell, "train.recompute=on", "train.micro_batch=2", "train.deterministic=true"]) == 0
    assert "(2 x " in capsys.readouterr().err
    (path,) = tmp_path.rglob("record.json")
    backend = read_record(path)["backend"]
    assert (backend["recompute"], backend["micro_batch"], backend["deterministic"]) == (True, 2, True)
    assert Results(tmp_path).state(compose(cell)).status == "done"  # however it was computed, it is the same cell
    assert main(cell) == 0
    assert "this cell is done already" in capsys.readouterr().err
