"""Completion in a real bash and a real zsh: what Tab makes of each beginning of a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.cli import main
from ssm_tune.commands import SUBCOMMANDS
from ssm_tune.config.choices import CHOICES
from ssm_tune.config.groups import names
from ssm_tune.config.schema import Config
from ssm_tune.ops.backend import BACKENDS

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


@pytest.mark.parametrize("name", CHOICES)
def test_the_choices_of_a_setting(script: Path, name: str) -> None:
    assert offered(script, f"ssm-tune {name}=") == set(CHOICES[name])


def test_choices_are_written_once() -> None:
    assert CHOICES["backend"] == BACKENDS
    for name, choices in CHOICES.items():
        setting: Any = None if name.startswith("sweep.") else Config
        for part in name.split(".") if setting else ():
            kind = {field.name: field for field in fields(setting)}[part]
            setting = kind.default_factory if callable(kind.default_factory) else kind.default  # type: ignore[arg-type]
        assert setting is None or setting in choices


ZSH_DRIVER = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1='> '; source $1; keep() { print -r -- \"\\$BUFFER\" > $3 }"
zpty -w shell "zle -N keep; bindkey '^I' complete-word '^T' keep"
zpty -w shell 'print RE''ADY'
zpty -r -m shell seen '*READY*'
zpty -n -w shell "$2"$'\t'$'\x14'
for wait in {1..100}; do [[ -s $3 ]] && break; sleep 0.1; done
zpty -d shell
"""


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ssm-tune doc", "ssm-tune doctor "),
        ("ssm-tune train.max_s", "ssm-tune train.max_steps="),
        ("ssm-tune method=bit", "ssm-tune method=bitfit "),
        ("ssm-tune method=lora task=glue_co", "ssm-tune method=lora task=glue_cola "),
        ("ssm-tune -m method=lora,bit", "ssm-tune -m method=lora,bitfit "),
        ("ssm-tune --vers", "ssm-tune --version "),
        ("ssm-tune data.path=/us", "ssm-tune data.path=/usr"),
    ],
)
def test_zsh(typed: str, completed: str, tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    made = subprocess.run(
        [sys.executable, "-m", "ssm_tune", "--completion", "zsh"], capture_output=True, text=True, check=True
    )
    script, line = tmp_path / "ssm-tune.zsh", tmp_path / "line"
    script.write_text(made.stdout)
    subprocess.run(
        ["zsh", "-f", "-c", ZSH_DRIVER, "driver", str(script), typed, str(line)],
        check=True, timeout=60, cwd=tmp_path, capture_output=True, env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    assert line.read_text().rstrip("\n").rstrip("/") == completed


def test_other_shells_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", "fish"]) == 2
    assert "--completion needs a shell" in capsys.readouterr().err
