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
    assert len(COMMANDS) == 5


def run(command: str, folder: Path) -> str:
    """What the command prints, in the copy of the project."""
    program, *arguments = command.split()
    start = [sys.executable, "-m", "ssm_tune"] if program == "ssm-tune" else [sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["COLUMNS"] = "200"
    line = [*start, *arguments]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


SWEEP, TABLE = (
    next((one for one in COMMANDS if one.startswith(start)), "") for start in ("ssm-tune -m", "ssm-tune table")
)


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in (SWEEP, TABLE)])
def test_every_command_works(command: str, copy: Path) -> None:
    said = run(command, copy).splitlines()[-1]
    if command.startswith("ssm-tune"):
        assert (copy / said.removeprefix("record: ")).is_file()
    else:
        assert re.search(r"\d+ passed", said)


@pytest.mark.slow
def test_one_command_and_the_method_has_its_row(copy: Path) -> None:
    counts = re.findall(r"(\d+) (?:kept|done)", run(SWEEP, copy).splitlines()[-1])  # kept: run by a test above
    assert sum(map(int, counts)) == 2
    found = run(TABLE, copy)
    for method in ("norms", "state_offset_y"):
        row = next(line for line in found.splitlines() if line.startswith(method))
        assert re.search(r"\d+\.\d\d \(1\)", row)  # a score of one seed


@pytest.mark.slow
def test_one_line_puts_a_method_into_the_leaderboard(copy: Path) -> None:
    file = copy / "conf" / "sweep" / "leaderboard.yaml"
    file.write_text(file.read_text().replace("methods:\n", "methods:\n  - method: norms\n"))
    for table in ("leaderboard", "leaderboard_mamba2"):
        assert re.search(r"^norms ", run(f"ssm-tune table {table}", copy), re.MULTILINE)
    words = "method=norms task=glue_rte,samsum model.root=M data.root=D --dry-run"
    said = run(f"ssm-tune search leaderboard {words}", copy).splitlines()
    assert len([line for line in said if re.match(r"mamba2?_25m \w+ norms: .* and up to 3 rates beyond", line)]) == 4
