"""A run that is done is known without PyTorch, and only where nothing that makes its result has changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.quick_runs import settings, write_data

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.config.compose import compose
from ssm_tune.experiment.done_already import finished_run
from ssm_tune.experiment.load_data import load_data
from ssm_tune.records.record import read_record, write_record


def found(line: list[str]) -> Path | None:
    config = compose(line)
    done = finished_run(config, load_data(config))
    return done and done[0]


def edit(path: Path, **changes: Any) -> None:
    record: Any = read_record(path)
    write_record(path.parent, record | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(Path(ssm_tune.__file__).parent / "models" / "tiny", folder / "checkpoint")
    write_data(folder / "data.jsonl")
    assert main(line_of(folder)) == 0
    return folder


def line_of(folder: Path, *more: str) -> list[str]:
    model = ["model=local", f"model.path={folder / 'checkpoint'}", "model.tokenizer=tiny"]
    return [*(one for one in settings(folder, "bitfit", *more) if one != "model=tiny"), *model]


def record_of(folder: Path) -> Path:
    (path,) = folder.glob("results/runs/*/*/record.json")
    return path


def test_a_run_on_files_older_than_itself_is_found(made: Path) -> None:
    edit(record_of(made), started="2999-01-01T00:00:00+00:00")
    assert found(line_of(made)) == record_of(made)
    code = f"import sys; sys.modules['torch'] = None; from ssm_tune.cli import main; sys.exit(main({line_of(made)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "done already" in done.stderr
    assert done.stdout.splitlines()[-1] == f"record: {record_of(made)}"


@pytest.mark.parametrize("more", [["seed=7"], ["train.max_steps=3"], ["method.learning_rate=1e-4"], ["force=true"]])
def test_another_run_is_not(made: Path, more: list[str]) -> None:
    edit(record_of(made), started="2999-01-01T00:00:00+00:00")
    assert found(line_of(made, *more)) is None


def test_nor_one_on_a_checkpoint_that_was_written_since(made: Path) -> None:
    edit(record_of(made), started="2000-01-01T00:00:00+00:00")
    assert found(line_of(made)) is None


def test_nor_one_on_other_data_or_another_device_or_tokenizer(made: Path) -> None:
    path = record_of(made)
    edit(path, started="2999-01-01T00:00:00+00:00")
    good: Any = read_record(path)
    for part, value in (("data", "0" * 64), ("tokenizer", "0" * 64)):
        edit(path, hashes=good["hashes"] | {part: value})
        assert found(line_of(made)) is None, part
    edit(
        path,
        hashes=good["hashes"],
        backend=good["backend"] | {"device": "cuda" if "cpu" in str(good["backend"]["device"]) else "cpu"},
    )
    assert found(line_of(made, f"device={good['backend']['device']}")) is None
    edit(path, backend=good["backend"])
    assert found(line_of(made)) == path


def test_a_run_says_what_it_is_before_anything_slow(made: Path, tmp_path: Path) -> None:
    line = [one for one in line_of(made) if not one.startswith("output_dir=")] + [f"output_dir={tmp_path}"]
    code = f"import sys; sys.modules['torch'] = None; from ssm_tune.cli import main; sys.exit(main({line!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    first = done.stderr.splitlines()[0]
    assert "bitfit" in first
    assert "classify" in first
    assert "seed 42" in first
