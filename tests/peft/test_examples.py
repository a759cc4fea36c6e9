"""The examples and the benchmark run on a CPU, and training beats the base model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", str(ROOT / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(output: str) -> tuple[float, float]:
    found = re.search(r"loss of the base model ([\d.]+), with the adapter ([\d.]+)", output)
    assert found
    return float(found[1]), float(found[2])


@pytest.mark.slow
def test_a_hybrid_learns_with_trl() -> None:
    pytest.importorskip("trl")
    before, after = losses(run("examples/peft_sft.py"))
    assert after < before / 2


@pytest.mark.slow
def test_a_converted_mamba2_learns_with_trl(shared: Path) -> None:
    pytest.importorskip("trl")
    folder = str(shared / "models" / "mamba2-25m")
    before, after = losses(run("examples/peft_sft.py", "--checkpoint", folder, "--steps", "6"))
    assert after < before / 2


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    small = {"device": "cpu", "layers": 1, "width": 256, "vocabulary": 64, "rows": 1, "length": 16, "steps": 1}
    arguments = [part for name, value in small.items() for part in (f"--{name}", str(value))]
    run("benchmarks/peft_hybrid.py", *arguments, "--json", str(tmp_path / "lines.json"))
    rows = {row["method"]: row for row in json.loads((tmp_path / "lines.json").read_text())["rows"]}
    assert rows["state offset h'"]["trained"] == 512 * 256
    assert rows["forward alone"]["trained"] == 0
    assert all(row["loss_last"] < row["loss_first"] for name, row in rows.items() if row["trained"] and "LoRA" in name)
