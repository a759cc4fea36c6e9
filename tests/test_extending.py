"""The worked examples of docs/extending.md, written into a copy of the project and run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
            for line in block.splitlines()]  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the examples' files in it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("ssm_tune", "conf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, content in FILES.items():
        assert not (ROOT / name).exists()
        (folder / name).write_text(content)
    return folder


def test_the_document_holds_what_is_tested() -> None:
    assert sorted(FILES) == [
        "conf/method/norms.yaml", "conf/task/speakers.yaml", "ssm_tune/methods/norms.py", "ssm_tune/tasks/speakers.py"
    ]  # fmt: skip
    assert len(COMMANDS) == 3


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(command: str, copy: Path) -> None:
    program, *arguments = command.split()
    start = [sys.executable, "-m", "ssm_tune"] if program == "ssm-tune" else [sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*start, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.strip().splitlines()[-1]
    if program == "ssm-tune":
        assert (copy / said.removeprefix("record: ")).is_file()
    else:
        assert re.search(r"\d+ passed", said)
