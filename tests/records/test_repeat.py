"""The line that makes a record's run again asks for that very run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.cli import main
from ssm_tune.config.compose import compose
from ssm_tune.records.record import find_records, read_record
from ssm_tune.records.repeat import command_of
from ssm_tune.records.where import shipped_dir
from ssm_tune.sweeps.older_records import ran_as_asked

in_a_checkout = pytest.mark.skipif(not (shipped_dir() / "runs").is_dir(), reason="the records lie in a checkout alone")


@in_a_checkout
@pytest.mark.slow
def test_a_shipped_record_is_asked_for_by_its_line() -> None:
    found, _ = find_records(shipped_dir())
    kinds: dict[str, Any] = {}
    for _, record in found:
        run = record["cell"]
        kinds.setdefault(f"{run['method']} {run['model']} {run['task'] == 'samsum'}", record)
    for kind, record in kinds.items():
        words = shlex.split(command_of(record))
        assert words[0] == "ssm-tune"
        assert ran_as_asked(compose(words[1:]), record), kind


def test_the_line_of_a_run_asks_for_it_again(tmp_path: Path) -> None:
    from helpers.quick_runs import settings, write_data

    write_data(tmp_path / "data.jsonl")
    asked = settings(tmp_path, "lora", "method.rank=2", "train.learning_rate=3e-3", "frozen=false", "device=cpu")
    assert main(asked) == 0
    (path,) = (tmp_path / "results").glob("runs/*/*/record.json")
    words = shlex.split(command_of(read_record(path)))
    assert main([*words[1:], f"output_dir={tmp_path / 'again'}", "frozen=false"]) == 0
    (again,) = (tmp_path / "again").glob("runs/*/*/record.json")
    assert again.parent.name == path.parent.name  # which ends in the hash of all that makes the result
    assert read_record(again)["metrics"] == read_record(path)["metrics"]


@in_a_checkout
@pytest.mark.parametrize("command", [["generate", "--prompt", "x", "--adapter"], ["export", "--to", "new"]])
def test_a_shipped_run_has_no_weights_and_says_how_to_get_some(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(path.parent for path, record in find_records(shipped_dir())[0] if record["cell"]["model"] == "tiny")
    monkeypatch.chdir(tmp_path)
    assert main([*command, str(run)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "no weights" in error
    words = shlex.split(error[error.index("ssm-tune method=") :])
    assert ran_as_asked(compose(words[1:]), read_record(run))
