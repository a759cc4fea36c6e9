"""Running out of GPU memory: one line that says where, and the same command goes on from what was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ssm_tune import run
from ssm_tune.cli import main

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
        patched.setattr(run, "classify", too_much)
        assert main(asked) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "out of GPU memory (step 3" in said
    assert "selective_scan: out of GPU memory on (64, 500, 32)" in said
    assert "smaller decode.batch_size" in said
    assert main([*asked, "decode.batch_size=8"]) == 0
    assert "resuming this cell (step 3" in capsys.readouterr().err
