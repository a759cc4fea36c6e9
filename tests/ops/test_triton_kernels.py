"""The Triton kernels without a GPU: their tests in Triton's interpreter, which needs a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

OLDEST = 3, 7
"""Before, Triton's interpreter fails with NumPy 2.4."""


def triton_version() -> tuple[int, ...]:
    try:
        return tuple(map(int, version("triton").split(".")[:2]))
    except PackageNotFoundError:
        return (0,)


pytestmark = pytest.mark.skipif(triton_version() < OLDEST, reason="no Triton from 3.7 on")
HERE = Path(__file__).parent
FILES = sorted(HERE.glob("interpreted_*.py"))
SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]
RUNS = [(file.name, "not slow") for file in FILES] + [
    pytest.param(file.name, "slow", marks=SLOW) for file in FILES if "mark.slow" in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize(("file", "which"), RUNS)
def test_in_the_interpreter(file: str, which: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file), "-m", which]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
