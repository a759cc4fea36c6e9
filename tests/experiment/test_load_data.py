"""What needs no model is checked before PyTorch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = ["method=bitfit", "task=glue_sst2", "model=tiny", "data=sample"]
CODE = "import sys; from ssm_tune.cli import main; s = main(sys.argv[1:]); print(s, 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("data=local data.path=nowhere", "nowhere"),
        ("output_dir=taken", "taken"),
        ("train.batch_size=100000", "train.batch_size=100000"),
        ("train.micro_batch=3", "train.micro_batch=3"),
        ("model=local model.path=nowhere", "nowhere"),
    ],
)
def test_it_is_refused_without_pytorch(setting: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    arguments = [*RUN, *setting.split()]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["2", "False"]
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr
