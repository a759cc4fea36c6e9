"""Two GPUs through torchrun and NCCL against one: the same losses within rounding, captured and not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssm_tune.records.record import read_record
from ssm_tune.utils.files import read_jsonl

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")]
CELL = [
    "method=lora",
    "task=samsum",
    "model=random",
    "model.tokenizer=tiny",
    "model.d_model=64",
    "model.n_layer=2",
    "model.dtype=float32",
    "data=sample",
    "train.epochs=1",
    "train.max_steps=40",
    "decode.num_beams=2",
    "decode.max_new_tokens=4",
    "frozen=false",
]


def losses(output: Path, processes: int, *more: str) -> list[float]:
    program = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "ssm_tune"]
    command = [sys.executable, *program, *CELL, *more, f"output_dir={output}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = output.rglob("record.json")
    assert read_record(path)["backend"]["processes"] == processes
    return [row["loss"] for row in read_jsonl(path.parent / "steps.jsonl.gz")]


@pytest.mark.parametrize("more", [("train.cuda_graphs=off",), (), ("train.micro_batch=1",)], ids=str)
def test_two_gpus_train_as_one(more: tuple[str, ...], tmp_path: Path) -> None:
    alone, shared = (losses(tmp_path / str(processes), processes, *more) for processes in (1, 2))
    worst = max(abs(one - two) / one for one, two in zip(alone, shared, strict=True))
    print(f"{more}: worst relative difference {worst:.1e}")
    assert worst < 2e-4
