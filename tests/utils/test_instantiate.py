"""What a file names is imported only if it is ssm-tune's own, or the user has named it on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.cli import main
from ssm_tune.config.groups import method_section
from ssm_tune.methods.base import Method, load_method
from ssm_tune.tasks.base import load_task
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.instantiate import TRUST_VARIABLE, take_trusted, trusting

CODE = """
from pathlib import Path
Path(__file__).with_name("imported").touch()

from dataclasses import dataclass
from ssm_tune.methods.bitfit import BitFit


@dataclass(frozen=True, kw_only=True)
class Own(BitFit):
    pass


def function(**options):
    Path(__file__).with_name("called").touch()
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a module that leaves a file when it is imported."""
    (tmp_path / "outside_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "outside_code", raising=False)
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    return tmp_path


def section(target: str) -> dict[str, Any]:
    return method_section("bitfit") | {"_target_": target}


@pytest.mark.parametrize(
    "target",
    [
        "outside_code.Own",
        "outside_code.function",
        "os.mkdir",
        "ssm_tune.cli.main",
        "ssm_tune.methods.base.os.mkdir",
        "ssm_tune.methods.outside_code.Own",
        "ssm_tune.methods.lora.Path",
        "ssm_tune.methods.lora.LowRankUpdate",
        "ssm_tune.methods.lora.",
        "ssm_tune.methods..lora.LoRA",
        "..x.y",
        ".",
        "",
        "\x1b[31mred.Red",
        None,
        [],
        7,
    ],
)
def test_no_other_class_is_imported_or_called(outside: Path, target: Any) -> None:
    for load in (load_method, load_task):
        with pytest.raises(UserError) as caught:
            load(section(target))
        assert "\x1b" not in str(caught.value)
    assert not (outside / "imported").exists()
    assert not (outside / "called").exists()


def test_a_method_is_no_task() -> None:
    with pytest.raises(UserError, match="is of the class"):
        load_task(method_section("bitfit"))


def test_a_class_that_the_user_names_is_made(outside: Path) -> None:
    with trusting(["outside_code.Own"]):
        assert isinstance(load_method(section("outside_code.Own")), Method)
        with pytest.raises(UserError, match="of the class"):
            load_method(section("outside_code.function"))  # another name of the same module
    assert not (outside / "called").exists()
    with pytest.raises(UserError, match="--trust-code"):
        load_method(section("outside_code.Own"))  # no longer


def test_a_function_is_not_called_even_so(outside: Path) -> None:
    with trusting(["outside_code.function"]), pytest.raises(UserError, match="is no Method"):
        load_method(section("outside_code.function"))
    assert not (outside / "called").exists()


def test_the_option_is_taken_out_of_the_command_line() -> None:
    assert take_trusted(["a", "--trust-code", "x.Y", "b=1", "--trust-code=z.w.V"]) == (["a", "b=1"], ["x.Y", "z.w.V"])
    for wrong in (["--trust-code"], ["--trust-code", "x"], ["--trust-code="], ["--trust-code", "x y.Z"]):
        with pytest.raises(UserError, match="takes a class"):
            take_trusted(wrong)


def test_adapters_and_overrides_run_nothing(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = outside / "adapter"
    adapter.mkdir()
    (adapter / "adapter.safetensors").write_bytes(b"")
    description = {"method": section("outside_code.Own"), "model": {}, "decode": {}}
    (adapter / "adapter.json").write_text(json.dumps(description))
    commands = [
        ["generate", "--adapter", str(adapter), "--prompt", "x"],
        ["export", str(adapter), "--merge", "--to", str(outside / "to")],
        ["method=bitfit", "method._target_=outside_code.Own", "task=samsum", "model=tiny", "data=sample"],
    ]
    for command in commands:
        assert main([*command]) == 2
        said = capsys.readouterr().err.splitlines()
        assert [line for line in said if not line.startswith("starting ")] == said[-1:]
    assert not (outside / "imported").exists()


def test_the_command_line_says_what_it_trusts(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["method=bitfit", "method._target_=outside_code.Own", "task=samsum", "model=tiny", "data=local"]
    assert main(["--trust-code", "outside_code.Own", *words, "data.path=nowhere"]) == 2
    assert "outside_code.Own" in capsys.readouterr().err.splitlines()[0]
