"""Settings on a command line: what is written is read back, and what cannot be read is answered with what can."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.hostile_texts import HOSTILE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ssm_tune.cli import main
from ssm_tune.config.overrides import MOST_VALUES, at_home, on_command_line, parsed, shell_word, values_of
from ssm_tune.sweeps.sweep_file import read_sweep
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.yaml_files import read_yaml

RUN = ["method=bitfit", "task=samsum", "model=tiny", "data=sample"]
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def read_back(word: str) -> Any:
    """What Hydra and OmegaConf make of a setting's value, as a shell hands it on."""
    (argument,) = shlex.split(word)
    return OmegaConf.create({"key": parsed(argument).value()})["key"]


@settings(max_examples=30)
@given(TEXTS)
@example("data (copy).jsonl")
@example("a\\${x}'\\")
@example("ünï/dätä.jsonl")
def test_any_text_is_read_back(text: str) -> None:
    assert str(read_back(shell_word(f"key={on_command_line(text)}"))) == text


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\0" not in text and "\ud800" not in text], ids=ascii)
def test_hostile_texts_are_read_back(text: str) -> None:
    assert str(read_back(shell_word(f"key={on_command_line(text)}"))) == text


@pytest.mark.parametrize("value", [None, True, 3, 0.5, ["a", "b c", 1]])
def test_other_values_are_read_back(value: Any) -> None:
    assert read_back(shell_word(f"key={on_command_line(value)}")) == value


@pytest.mark.parametrize("path", ["ünï/dätä.jsonl", "data (copy).jsonl", "a=b.jsonl", "a,b.jsonl", "it's.jsonl"])
def test_a_path_that_has_to_be_quoted_is_shown_quoted(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["method=bitfit", "task=classify", "model=tiny"]
    assert main([*own, f"data.path={path}"]) == 2
    line = capsys.readouterr().err
    shown = line[line.index("data.path='") - 1 :].strip() if '"data' in line else line.split("write it as ")[1].strip()
    assert read_back(shown.replace("data.path", "key")) == path
    assert main([*own, *shlex.split(shown)]) == 2
    assert f"{path} does not exist" in capsys.readouterr().err


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    assert read_back(shell_word(at_home("data.path=~/x.jsonl"))) == str(tmp_path / "my home" / "x.jsonl")
    assert at_home("data.path=a~/x") == "data.path=a~/x"


@pytest.mark.parametrize("setting", ["~seed", "~task.name", "~logger", "seed", "=3", "hydra.launcher._target_=a.B"])
def test_what_is_no_setting_is_refused(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([*RUN, setting], ["-m", *RUN, setting]):
        assert main(arguments) == 2
        assert setting in capsys.readouterr().err


def test_a_glob_takes_the_names_of_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert values_of("method=glob(bit*)") == ["method=bitfit"]
    assert set(values_of("method=glob([state*,lora])")) == {
        "method=state_offset",
        "method=state_offset_y",
        "method=lora",
    }
    with pytest.raises(UserError, match="bitfit"):
        values_of("method=glob(nothing*)")


@pytest.mark.parametrize(
    "asked", [["seed=range(0,1e8)"], ["seed=range(0,1e4)", "train.epochs=range(1,1e4)"]], ids=" ".join
)
def test_a_sweep_has_a_bound(asked: list[str]) -> None:
    with pytest.raises(UserError, match=f"{MOST_VALUES:,}"):
        read_sweep([*RUN, *asked])


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("train.lr=1e-3", "train.learning_rate"),
        ("lr=1e-3", "train.learning_rate"),
        ("bs=4", "train.batch_size"),
        ("batch=4", "train.batch_size"),
        ("epochs=3", "train.epochs"),
        ("steps=3", "train.max_steps"),
        ("output=x", "output_dir"),
        ("train.epoch=2", "train.epochs"),
        ("train.lerning_rate=2", "train.learning_rate"),
        ("decode.beam=2", "decode.num_beams"),
    ],
)
def test_names_from_elsewhere_are_understood(setting: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([*RUN, setting], ["-m", *RUN, setting]):
        assert main(arguments) == 2
        assert f"did you mean {meant}" in capsys.readouterr().err


def test_a_method_brings_its_own_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["method=lora", *RUN[1:], "lora_r=4"]) == 2
    assert "did you mean method.rank?" in capsys.readouterr().err


@pytest.mark.parametrize(("wrong", "right"), [("metod=lora", "method"), ("tsk=samsum", "task")])
def test_a_misspelt_group_is_named(wrong: str, right: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([wrong, *(part for part in RUN if not part.startswith(f"{right}="))]) == 2
    assert f"did you mean {right}?" in capsys.readouterr().err


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{n}: &{n} [{','.join([f'*{p}'] * 10)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text", [BOMB, "a: &a [*a]", "[" * 5000, "a: [", "a: ${b}", "? [a]: b", "\x00", "!!python/object:os.system {}"]
)
def test_a_yaml_that_cannot_be_read_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml"):
        read_yaml(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with suppress(UserError):
        read_yaml(path)
