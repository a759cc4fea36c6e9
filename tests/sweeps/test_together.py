"""sweep.together: which runs of a sweep train together, what becomes of them, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.quick_runs import left, settings, write_data
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.cli import main
from ssm_tune.config.compose import Composer
from ssm_tune.sweeps.joined import groups_of, split_for
from ssm_tune.sweeps.sweep_file import read_sweep
from ssm_tune.sweeps.worker import Worker

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path / "data.jsonl")
    return tmp_path


def grouped(together: int | None, *words: str) -> list[list[str]]:
    sweep, composer = read_sweep(["model=tiny", "data=sample", *words]), Composer()
    labels = [" ".join(run.overrides[2:]) for run in sweep.runs]
    groups = groups_of([composer.config(run.overrides) for run in sweep.runs], together)
    return [[labels[number] for number in group] for group in groups]


def test_runs_that_differ_in_seed_and_numbers_are_joined() -> None:
    base = "method=lora task=samsum"
    assert grouped(None, *base.split(), "seed=1,2", "train.learning_rate=0.001,0.01") == [
        [f"{base} seed={seed} train.learning_rate={rate}" for seed in (1, 2) for rate in ("0.001", "0.01")]
    ]
    assert grouped(3, *base.split(), "seed=1,2,3,4") == [
        [f"{base} seed={seed}" for seed in (1, 2, 3)], [f"{base} seed=4"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    ["method=lora,bitfit task=samsum", "method=lora task=samsum,dart", "method=lora task=samsum method.rank=2,4",
     "method=lora task=samsum train.batch_size=2,4", "method=lora task=samsum train.micro_batch=1,2"],
)  # fmt: skip
def test_runs_that_differ_in_more_are_not(words: str) -> None:
    assert [len(group) for group in grouped(None, *words.split())] == [1, 1]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 20))
def test_groups_are_cut_for_workers_that_would_wait(sizes: list[int], workers: int) -> None:
    numbers = iter(range(sum(sizes)))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    cut = split_for(groups, workers)
    assert sorted(number for group in cut for number in group) == list(range(sum(sizes)))
    assert len(cut) == max(len(groups), min(workers, sum(sizes)))


@pytest.mark.parametrize("value", ["0", "-1", "1", "text", "2,3", "1.5", ""])
def test_other_values_are_refused(value: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["-m", "method=lora", "task=samsum", f"sweep.together={value}", f"output_dir={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert "sweep.together" in err
    assert err.count("\n") == 1


def job(runs: Sequence[Sequence[str]], together: int | None) -> dict[str, Any]:
    return {"overrides": list(runs[0]), "others": [list(run) for run in runs[1:]], "together": together, "log": None}


def test_a_worker_gives_each_what_it_gives_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And goes on with others behind them; what cannot be joined is run in a row, and says why."""
    worker, alone = Worker(), f"output_dir={folder / 'alone'}"
    for method in ("bitfit", "full", "lora"):
        runs = [settings(folder, method, f"seed={seed}") for seed in (1, 2)]
        answer = worker.do(job(runs, 2))
        found = [answer["outcome"], *answer["others"]]
        assert [outcome["status"] for outcome in found] == ["done", "done"], found
        assert not answer["ends"]
        for run in runs:
            single = worker.do({"overrides": [*run, alone], "log": None})
            assert single["outcome"]["status"] == "done"
    assert "do not train together: method=full" in capsys.readouterr().err
    ours, theirs = left(folder / "results"), left(folder / "alone")
    assert ours.keys() == theirs.keys()
    for name, run in ours.items():
        assert run["record"]["backend"].pop("members", 1) == (1 if "full" in name else 2)
        for key in ("cell", "cell_hash", "request_hash", "steps", "tokens", "backend", "status"):
            assert run["record"][key] == theirs[name]["record"][key]


def sweep_of(folder: Path, *more: str) -> list[str]:
    wanted = settings(folder, "lora", "train.max_steps=60", "train.epochs=30", "train.evaluate_every=30")
    return [sys.executable, "-m", "ssm_tune", "-m", *wanted, "seed=1,2,3", "sweep.together=3", *more]


def locks(folder: Path) -> list[Path]:
    return list(folder.glob("results/runs/classify/.claims/*/*.json"))


def killed_in_training(folder: Path, process: subprocess.Popen[str]) -> None:
    """Kill the worker of three runs once each has a checkpoint."""
    deadline = time.monotonic() + 300
    while len(list(folder.glob("results/runs/*/*/checkpoints/*.safetensors"))) < 6 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    (pid,) = {json.loads(path.read_text())["pid"] for path in locks(folder)}
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["serial", "local"])
def test_where_the_process_of_three_runs_is_killed_each_resumes(folder: Path, launcher: str) -> None:
    command = sweep_of(folder, "checkpoint.steps=5", f"hydra/launcher={launcher}")
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    killed_in_training(folder, sweep)
    out, err = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, err
    assert "3 done" in out
    records = [run["record"] for run in left(folder / "results").values()]
    assert [record["sessions"] for record in records] == [2, 2, 2]
    assert all("members" not in record["backend"] for record in records)
    assert len(locks(folder)) == 6


@pytest.mark.slow
def test_where_all_is_killed_the_same_line_resumes_each(folder: Path) -> None:
    command = sweep_of(folder, "checkpoint.steps=5")
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
    killed_in_training(folder, sweep)
    sweep.kill()
    sweep.wait()
    again = subprocess.run(command, capture_output=True, text=True, timeout=500, env=ENVIRONMENT)
    assert again.returncode == 0, again.stderr
    assert "3 done" in again.stdout
    assert all(run["record"]["sessions"] >= 2 for run in left(folder / "results").values())


@pytest.mark.slow
def test_two_launchers_do_no_run_twice(folder: Path) -> None:
    command = sweep_of(folder)
    sweeps = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for _ in range(2)
    ]
    told = [sweep.communicate(timeout=500) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], told
    runs = left(folder / "results")
    assert len(runs) == 3
    assert all(run["record"]["sessions"] == 1 for run in runs.values())
    trained = sum(bool(re.search(r": epoch \d+  ", line)) for _, err in told for line in err.splitlines())
    assert trained == 3
