"""Runs that train together leave the records that they leave alone; what ends one leaves the others whole."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.config.compose import compose
from ssm_tune.experiment.load_data import load_data
from ssm_tune.experiment.member import Member
from ssm_tune.experiment.run import RunResult, run
from ssm_tune.experiment.run_lock import Locked, Request, run_lock
from ssm_tune.experiment.run_together import run_together
from ssm_tune.experiment.setup import build_experiment
from ssm_tune.records.record import read_record
from ssm_tune.records.run_id import request_hash
from ssm_tune.utils.errors import NotJoined, UserError

COMMON = [
    "model=random", "model.tokenizer=tiny", "model.d_model=16", "model.n_layer=2", "task=glue_sst2", "data=sample",
    "train.epochs=2", "train.max_steps=8", "device=cpu",
]  # fmt: skip
RUNS = [["seed=1"], ["seed=2", "train.learning_rate=0.02"], ["seed=3", "train.max_steps=5", "train.weight_decay=0.1"]]
SAME = (
    "status", "cell", "cell_hash", "request_hash", "signatures", "parameters", "learning_rate", "steps", "tokens",
    "splits", "notes", "hashes", "config",
)  # fmt: skip


@pytest.fixture(autouse=True)
def few_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSM_TUNE_CACHE", str(tmp_path / "cache"))


def configs(output: Path, *more: str, runs: Sequence[list[str]] = RUNS) -> list[Any]:
    return [compose([*COMMON, "method=lora", *more, *own, f"output_dir={output}"]) for own in runs]


def together(wanted: Sequence[Any], count: int | None = 3) -> list[RunResult | Exception]:
    names = [f"seed {config.seed}" for config in wanted]
    requests = [Request(request_hash(config), name) for config, name in zip(wanted, names, strict=True)]
    return run_together(wanted, load_data(wanted[0]), requests, names, count)


def steps_of(path: Path) -> list[dict[str, float]]:
    import gzip

    with gzip.open(path.parent / "steps.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def assert_alike(one: Path, other: Path) -> None:
    """Two records of one run; the first may have been trained with others."""
    mine, theirs = read_record(one), read_record(other)
    for key in SAME:
        if key == "config":
            mine["config"].pop("output_dir"), theirs["config"].pop("output_dir")
        assert mine[key] == theirs[key], key  # type: ignore[literal-required]
    for left, right in zip(steps_of(one), steps_of(other), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
    for which in ("best", "last"):
        assert mine["metrics"][which] is not None
        assert set(mine["metrics"][which]) == set(theirs["metrics"][which])  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [3, 2])
def test_each_leaves_its_own_record_as_if_it_were_alone(count: int, tmp_path: Path) -> None:
    joined = together(configs(tmp_path / "together"), count)
    for result, config in zip(joined, configs(tmp_path / "alone"), strict=True):
        assert isinstance(result, RunResult)
        other = run(config)
        assert_alike(result.path, other.path)
        assert result.record["backend"]["members"] == count
        assert "members" not in other.record["backend"]
        assert result.path.parent.name == other.path.parent.name
        (lock,) = (result.path.parent.parent / ".claims" / result.path.parent.name).iterdir()
        assert json.loads(lock.read_text())["outcome"] == "done"
    again = together(configs(tmp_path / "together"), count)
    assert [isinstance(one, RunResult) and one.is_new for one in again] == [False] * 3


def test_seconds_of_members_add_up_to_the_clock(tmp_path: Path) -> None:
    import time

    begun = time.perf_counter()
    found = [result for result in together(configs(tmp_path)) if isinstance(result, RunResult)]
    here = time.perf_counter() - begun
    total = sum(result.record["seconds"]["total"] for result in found)
    assert 0.2 * here < total <= 1.01 * here
    assert all(result.record["seconds"]["train"] > 0 for result in found)


def test_what_another_process_does_or_is_done_is_left_out(tmp_path: Path) -> None:
    wanted = configs(tmp_path)
    run(wanted[0])
    folder = build_experiment(wanted[1]).folder
    with run_lock(folder):
        done, held, new = together(wanted)
    assert isinstance(done, RunResult)
    assert not done.is_new
    assert isinstance(held, Locked)
    assert isinstance(new, RunResult)
    assert new.is_new


def test_a_full_disk_under_one_record_leaves_the_others_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssm_tune.experiment.write_record as writing

    write = writing.write_record

    def full(folder: Path, record: Any) -> None:
        if record["cell"]["seed"] == 2:
            raise UserError(f"cannot write {folder}: No space left on device")
        write(folder, record)

    monkeypatch.setattr(writing, "write_record", full)
    one, failed, other = together(configs(tmp_path))
    assert isinstance(one, RunResult)
    assert isinstance(other, RunResult)
    assert isinstance(failed, UserError)
    (left,) = tmp_path.glob("runs/*/*-s2-*/failed.json")
    assert "No space left" in json.loads(left.read_text())["error"]
    monkeypatch.undo()
    assert isinstance(together(configs(tmp_path))[1], RunResult)


def test_a_member_that_diverges_has_its_record_and_the_others_theirs(tmp_path: Path) -> None:
    runs = [["seed=1"], ["seed=2", "train.learning_rate=1e5"]]
    well, diverged = together(configs(tmp_path / "together", "method=state_offset", runs=runs), 2)
    assert isinstance(well, RunResult)
    assert isinstance(diverged, RunResult)
    assert well.record["status"] == "completed"
    assert (
        diverged.record["status"]
        == run(configs(tmp_path / "alone", "method=state_offset", runs=runs)[1]).record["status"]
    )


def test_a_signal_saves_each_and_each_resumes_in_other_company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    wanted, after = configs(tmp_path / "cut"), Member.after_gradients
    calls = []

    def counted(self: Member, seconds: float) -> None:
        calls.append(1)
        if len(calls) == 8:  # in the third step of three
            os.kill(os.getpid(), signal.SIGTERM)
        after(self, seconds)

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(Member, "after_gradients", counted)
    stopped = together(wanted)
    assert [type(error).__name__ for error in stopped] == ["Stopped"] * 3
    monkeypatch.undo()
    first = run(wanted[0])  # alone
    rest = together(wanted[1:], 2)
    whole = [run(config) for config in configs(tmp_path / "whole")]
    for one, other in zip([first, *rest], whole, strict=True):
        assert isinstance(one, RunResult)
        assert read_record(one.path)["sessions"] == 2
        assert_alike(one.path, other.path)


def test_what_cannot_be_joined_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotJoined, match="method=full: it trains the model's own weights"):
        together(configs(tmp_path, "method=full"))
    assert not list(tmp_path.glob("runs/*/*"))


def test_more_than_fit_are_refused_with_what_would_fit(tmp_path: Path) -> None:
    refused = together(configs(tmp_path, "train.memory=0.0035", "train.recompute=off"), 3)
    assert all(isinstance(error, UserError) for error in refused)
    assert "sweep.together=3: the longest batches of 3 runs need more memory" in str(refused[0])
    assert "sweep.together=2 would fit" in str(refused[0])


def test_auto_measures_and_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = together(configs(tmp_path, runs=RUNS[:2]), None)
    assert all(isinstance(one, RunResult) for one in found)
    assert "times the steps a second of one" in capsys.readouterr().err


def test_a_member_that_diverges_in_an_evaluation_is_recorded_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssm_tune.experiment import epochs
    from ssm_tune.utils.errors import Diverged

    predict = epochs.predict_split

    def fails(checkpointer: Any, *rest: Any) -> Any:
        if checkpointer.experiment.config.seed == 2:
            raise Diverged("logits are not finite")
        return predict(checkpointer, *rest)

    monkeypatch.setattr(epochs, "predict_split", fails)
    status = [one.record["status"] for one in together(configs(tmp_path)) if isinstance(one, RunResult)]
    assert status == ["completed", "diverged", "completed"]
