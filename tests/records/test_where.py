"""Which records a command reads: the user's own, the shipped ones, or both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.make_records import make_record

from ssm_tune.cli import main
from ssm_tune.records import where
from ssm_tune.records.record import write_record
from ssm_tune.utils.errors import UserError


def store(results: Path, method: str, key: str, score: float) -> Path:
    record: Any = make_record(method, score=score) | {"cell_hash": key}
    return write_record(results / "runs" / "samsum" / f"{method}-{key}", record)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a run of his own and one that is shipped as well, and a checkout with three shipped runs."""
    checkout, work = tmp_path / "checkout", tmp_path / "work"
    for method, key in (("lora", "a"), ("bitfit", "b"), ("prefix", "c")):
        store(checkout / "results" / "shipped", method, key, 0.3)
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(where, "conf_dir", lambda: checkout / "conf")
    store(Path("results"), "lora", "a", 0.5)
    store(Path("results"), "prompt", "d", 0.5)
    return checkout


def scores(word: str) -> dict[str, float]:
    found, _ = where.read(word)
    return {record["cell"]["method"]: record["metrics"]["best"]["report"]["rougeL"] for _, record in found}  # type: ignore[index]


@pytest.mark.usefixtures("both")
def test_own_and_shipped_runs_are_apart_and_of_both_the_own_counts() -> None:
    assert scores("results") == {"lora": 0.5, "prompt": 0.5}
    assert scores("shipped") == {"lora": 0.3, "bitfit": 0.3, "prefix": 0.3}
    assert scores("both") == {"lora": 0.5, "prompt": 0.5, "bitfit": 0.3, "prefix": 0.3}


def test_a_folder_that_is_called_shipped_can_be_named(both: Path) -> None:
    store(Path("shipped"), "full", "e", 0.9)
    assert scores("./shipped") == {"full": 0.9}
    assert where.is_shipped(both / "results" / "shipped" / "runs" / "samsum" / "lora-a")
    assert not where.is_shipped(Path("shipped") / "runs" / "samsum" / "full-e")


def test_without_own_runs_the_shipped_ones_are_named(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["table"], ["report"], ["status"]):
        empty = ["--results", str(both / "nothing")]
        assert main([*command, *empty]) == 2
        assert "--results shipped" in capsys.readouterr().err, command
    for line in (["compare", "lora", "bitfit", "--results", str(both / "nothing")], ["compare", "bitfit", "lora"]):
        assert main(line) == 2  # bitfit is shipped alone
        assert "--results shipped" in capsys.readouterr().err


@pytest.mark.usefixtures("both")
def test_every_command_knows_the_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "--results", "shipped", "--format", "csv"]) == 0
    assert "bitfit" in capsys.readouterr().out
    assert main(["status", "--results", "shipped", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 3
    assert main(["status", "--results", "both"]) == 2


@pytest.mark.usefixtures("both")
def test_an_installed_package_has_no_shipped_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(where, "conf_dir", lambda: tmp_path / "site-packages" / "ssm_tune" / "conf")
    with pytest.raises(UserError, match="checkout"):
        where.read("shipped")
    assert scores("results") == {"lora": 0.5, "prompt": 0.5}
