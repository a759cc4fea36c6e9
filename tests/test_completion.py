"""Completion in a real bash: what Tab offers after each beginning of a line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssm_tune.cli import SUBCOMMANDS, main
from ssm_tune.config import names

DRIVER = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
_ssm_tune
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "ssm-tune.bash"
    made = subprocess.run(
        [sys.executable, "-m", "ssm_tune", "--completion", "bash"], capture_output=True, text=True, check=True
    )
    path.write_text(made.stdout)
    return path


def offered(script: Path, line: str) -> set[str]:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    done = subprocess.run(
        ["bash", "--norc", "-c", DRIVER, "driver", str(script), line], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_subcommands_and_settings(script: Path) -> None:
    assert offered(script, "ssm-tune ") >= {*SUBCOMMANDS, "method=", "task=", "train.max_steps=", "logger="}
    assert offered(script, "ssm-tune do") == {"doctor"}
    assert offered(script, "ssm-tune method=lora ta") >= {"task="}
    assert offered(script, "ssm-tune train.max_s") == {"train.max_steps="}


@pytest.mark.parametrize("group", ["method", "task", "model", "data"])
def test_the_names_of_a_group(script: Path, group: str) -> None:
    assert offered(script, f"ssm-tune {group}=") == set(names(group))
    assert offered(script, f"ssm-tune -m seed=1,2 {group}=") == set(names(group))


def test_beginnings_and_lists(script: Path) -> None:
    assert offered(script, "ssm-tune method=state") == {"state_offset", "state_offset_y"}
    assert offered(script, "ssm-tune -m method=lora,bit") == {"lora,bitfit"}
    assert offered(script, "ssm-tune device=c") == {"cpu", "cuda"}


def test_other_shells_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert main(["--completion", "fish"]) == 2
    assert "--completion needs a shell" in capsys.readouterr().err
