"""Completion in a real bash and a real zsh: what Tab makes of each beginning of a line."""

from __future__ import annotations

import os
import re
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


@pytest.mark.parametrize("group", ["method", "task", "model", "data", "tuned", "hydra/launcher"])
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


def test_sweeps_options_of_methods_and_launchers(script: Path) -> None:
    assert offered(script, "ssm-tune -m +sw") == {"+sweep="}
    assert offered(script, "ssm-tune -m +sweep=") == set(names("sweep"))
    assert offered(script, "ssm-tune hydra/la") == {"hydra/launcher="}
    assert {"method.rank=", "method.targets=", "method.use_dora="} <= offered(script, "ssm-tune method=lora method.")
    assert offered(script, "ssm-tune -m hydra.launcher.n_") == {"hydra.launcher.n_jobs="}
    assert offered(script, "ssm-tune force=") == {"true", "false"}
    assert offered(script, "ssm-tune model.pa") == {"model.path="}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("status ma", {name for name in names("sweep") if name.startswith("ma")}),
        ("table ", set(names("table"))),
        ("report rank", {name for name in names("table") if name.startswith("rank")}),
        ("search m", {*(f"{word}=" for word in ("method", "model")), *(n for n in names("search") if n[0] == "m")}),
        ("data fe", {"fetch"}),
        ("data show glue_r", {"glue_rte"}),
        ("doctor --fo", {"--format"}),
        ("doctor --format ", {"text", "json"}),
        ("doctor --task glue_s", {"glue_sst2"}),
        ("export --me", {"--merge"}),
        ("plan method=bitf", {"bitfit"}),
        ("compare bitf", {"bitfit"}),
    ],
)
def test_names_and_flags_of_a_subcommand(script: Path, line: str, words: set[str]) -> None:
    dotted = ("model.", "method.")
    assert {one for one in offered(script, f"ssm-tune {line}") if not one.startswith(dotted)} == words


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_flags_of_a_subcommand(script: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, *(["show"] if name == "data" else []), "--help"])
    listed = re.findall(r"^  (?:-\w(?: \w+)?, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert offered(script, f"ssm-tune {name} --") == set(listed)


def test_run_folders_and_paths(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "results" / "runs" / "dart" / "sample-tiny-lora-rank=4-s42-0123abcd"
    run.mkdir(parents=True)
    (run / "record.json").touch()
    (tmp_path / "elsewhere").mkdir()
    relative = str(run.relative_to(tmp_path))
    for name in ("score", "show", "export", "compare", "evaluate"):
        assert relative in offered(script, f"ssm-tune {name} ")
        assert offered(script, f"ssm-tune {name} elsew") == {"elsewhere"}
    assert offered(script, "ssm-tune export results/ru") >= {relative, "results/runs"}
    assert offered(script, f"ssm-tune export {relative[:-12]}") == {relative.rpartition("=")[2]}
    assert offered(script, f"ssm-tune export {relative} --to elsew") == {"elsewhere"}
    assert offered(script, "ssm-tune generate --adapter results/r") == {"results/runs"}


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
        ("ssm-tune -m +sweep=mai", "ssm-tune -m +sweep=main "),
        ("ssm-tune -m hydra/launcher=lo", "ssm-tune -m hydra/launcher=local "),
        ("ssm-tune tuned=ac", "ssm-tune tuned=acl2025 "),
        ("ssm-tune method=lora method.dropo", "ssm-tune method=lora method.dropout="),
        ("ssm-tune doctor --form", "ssm-tune doctor --format "),
        ("ssm-tune doctor --task glue_s", "ssm-tune doctor --task glue_sst2 "),
        ("ssm-tune status mai", "ssm-tune status main "),
        ("ssm-tune export /us", "ssm-tune export /usr"),
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
