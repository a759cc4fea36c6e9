"""Workers: what runs share changes none of them, what one leaves behind does not reach the next, and the dead are
replaced."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.quick_runs import left, settings, write_data

from ssm_tune.config.compose import compose
from ssm_tune.experiment import write_record
from ssm_tune.experiment.shared import Shared
from ssm_tune.models.checkpoint import read_tensors
from ssm_tune.models.source import EMBEDDED
from ssm_tune.records.record import read_record
from ssm_tune.sweeps.in_a_row import InARow
from ssm_tune.sweeps.one_run import Outcome, run_settings
from ssm_tune.sweeps.process_state import memory_in_use
from ssm_tune.sweeps.worker import Worker
from ssm_tune.sweeps.worker_process import WorkerProcess
from ssm_tune.utils.errors import UserError

METHODS = ("lora", "full", "bitfit", "state_offset", "prompt")
DONE = Outcome("done")


def job(overrides: Sequence[str], log: Path | None = None) -> dict[str, Any]:
    return {"overrides": list(overrides), "log": None if log is None else str(log)}


def no_death(overrides: Sequence[str], line: str) -> None:
    pytest.fail(line)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path / "data.jsonl")
    return tmp_path


def test_a_run_leaves_the_same_whatever_ran_before_it(folder: Path) -> None:
    """Also behind full fine-tuning, which trains the very weights, and LoRA, which draws."""
    runs = [settings(folder, method, f"seed={seed}") for seed in (1, 2) for method in METHODS]
    worker = Worker()
    answers = [worker.do(job(run)) for run in runs]
    assert [answer["outcome"]["status"] for answer in answers] == ["done"] * len(runs)
    assert not any(answer["ends"] for answer in answers)
    alone = folder / "alone"
    for run in runs:
        assert run_settings([*run, f"output_dir={alone}"]).status == "done"  # type: ignore[union-attr]
    assert len(left(alone)) == len(runs)
    assert left(folder / "results") == left(alone)


@pytest.mark.slow
def test_a_worker_gives_what_processes_of_one_run_give(folder: Path) -> None:
    runs = [settings(folder, method) for method in METHODS]
    with InARow(on_death=no_death) as row:
        assert [row.run(run).status for run in runs] == ["done"] * len(runs)
    for run in runs:
        command = [sys.executable, "-m", "ssm_tune", *run, f"output_dir={folder / 'alone'}"]
        subprocess.run(command, check=True, capture_output=True)
    assert left(folder / "results") == left(folder / "alone")
    assert len(left(folder / "alone")) == len(runs)


def test_a_worker_does_without_the_compiler(folder: Path) -> None:
    code = (
        "import sys, json; from ssm_tune.sweeps.worker import Worker; worker = Worker()\n"
        "for run in json.loads(sys.argv[1]):\n"
        "    assert worker.do({'overrides': run, 'log': None})['outcome']['exit'] == 0\n"
        "assert 'torch._dynamo.eval_frame' not in sys.modules"
    )
    runs = [settings(folder, "bitfit", f"seed={seed}") for seed in (1, 2)]
    subprocess.run([sys.executable, "-c", code, json.dumps(runs)], check=True, capture_output=True)


def test_shared_weights_stay_and_are_loaded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssm_tune.experiment import shared_model

    loads: list[str] = []
    load = shared_model.load_model
    monkeypatch.setattr(shared_model, "load_model", lambda *given: (loads.append("model"), load(*given))[1])
    shared = Shared()
    for method in ("lora", "bitfit", "prefix"):
        run_settings(settings(folder, method), shared)
    assert loads == ["model"]
    assert shared.model is not None
    tensors, _ = read_tensors(EMBEDDED / "tiny")
    lent = dict(shared.model.lend().named_parameters())
    assert all(torch.equal(lent[name], value.to(lent[name].dtype)) for name, value in tensors.items() if name in lent)
    run_settings(settings(folder, "full"), shared)  # takes them with it
    assert shared.model is None
    run_settings(settings(folder, "lora", "seed=7"), shared)
    assert loads == ["model"] * 2


def test_weights_that_something_has_changed_are_loaded_again(folder: Path) -> None:
    shared = Shared()
    run_settings(settings(folder, "lora"), shared)
    assert shared.model is not None
    damaged = shared.model
    with torch.no_grad():
        next(iter(damaged.lend().parameters()))[0, 0] += 1
    assert not damaged.is_unchanged()
    run_settings(settings(folder, "lora", "seed=2"), shared)
    assert shared.model is not damaged
    alone = folder / "alone"
    run_settings(settings(folder, "lora", "seed=2", f"output_dir={alone}"))
    (name,) = left(alone)
    assert left(folder / "results")[name] == left(alone)[name]


def test_data_that_changes_between_two_runs_is_read_again(folder: Path) -> None:
    shared, hashes = Shared(), set()
    for seed, examples in ((1, 16), (2, 16), (3, 17)):
        write_data(folder / "data.jsonl", examples)
        outcome = run_settings(settings(folder, "bitfit", f"seed={seed}"), shared)
        assert outcome is not None
        assert outcome.record is not None
        hashes.add(read_record(Path(outcome.record))["hashes"]["data"])
    assert len(hashes) == 2


def test_what_a_run_leaves_in_the_process_does_not_reach_the_next(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    def untidy(overrides: Sequence[str], shared: Any, composer: Any) -> Outcome:
        modes = torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
        seen.append((*modes, torch.rand(()).item(), random.random(), Path.cwd(), os.environ.get("SSM_TUNE_LEFT")))
        seen[-1] += (torch.get_num_threads(), os.environ["HOME"])
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(torch.get_num_threads() + 1)
        os.environ["SSM_TUNE_LEFT"] = "x"
        os.environ["HOME"] = "elsewhere"
        os.chdir(tmp_path)
        return DONE

    worker, before = Worker(untidy), torch.get_num_threads()
    try:
        assert [worker.do(job([])) for _ in range(3)]
    finally:
        worker._state.before_run()
        torch.set_num_threads(before)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        (Outcome("done"), False),
        (Outcome("diverged", exit=1), False),
        (Outcome("failed", "train.batch_size=9 is more than 8", exit=2), False),
        (Outcome("failed", "unexpected RuntimeError", exit=1), True),
        (Outcome("failed", "out of GPU memory (in training)", exit=2), True),
        (None, True),
    ],
)
def test_a_process_that_may_be_broken_takes_no_more_runs(outcome: Outcome | None, ends: bool) -> None:
    answer = Worker(lambda overrides, shared, composer: outcome).do(job([]))
    assert answer["ends"] == ends
    assert (answer["outcome"] is None) == (outcome is None)


def test_one_that_leaks_takes_no_more_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([2 << 30, 3 << 30, (5 << 30) + 1])
    monkeypatch.setattr("ssm_tune.sweeps.process_state.memory_in_use", lambda: next(used))
    worker = Worker(lambda overrides, shared, composer: DONE)
    assert [worker.do(job([]))["ends"] for _ in range(3)] == [False, False, True]


def test_deterministic_runs_get_processes_of_their_own(folder: Path) -> None:
    def config(*more: str) -> Any:
        return compose(settings(folder, "lora", *more))

    shared = Shared()
    assert shared.fits(config("device=auto"))
    assert not shared.fits(config("device=auto", "train.deterministic=true"))
    assert shared.fits(config("device=cpu", "train.deterministic=true"))  # there is nothing to fix


def test_a_run_that_another_kind_was_before_gets_a_new_process(folder: Path) -> None:
    """As a GPU is not needed to be refused, this is seen on a CPU, too."""
    worker, pids = WorkerProcess(), []
    for more in (["seed=1"], ["seed=2", "train.deterministic=true"], ["seed=3"]):
        worker.give(settings(folder, "bitfit", *more), folder / "log")
        outcome = worker.outcome()
        assert outcome is not None
        assert outcome.status == "done", outcome.line
        assert worker.process is not None
        pids.append(worker.process.pid)
    worker.end()
    assert len(set(pids)) == 3


def test_a_full_disk_under_one_record_fails_that_run_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = write_record.write_record

    def full_once(place: Path, record: Any) -> Path:
        if "bitfit" in place.name:
            raise UserError(f"cannot write {place}: No space left on device; free some space")
        return write(place, record)

    monkeypatch.setattr(write_record, "write_record", full_once)
    worker = Worker()
    answers = [worker.do(job(settings(folder, method))) for method in ("lora", "bitfit", "prompt")]
    assert [answer["outcome"]["status"] for answer in answers] == ["done", "failed", "done"]
    assert "No space left" in answers[1]["outcome"]["line"]
    assert len(left(folder / "results")) == 2


def test_each_run_has_a_log_of_its_own_and_a_dead_worker_a_successor(folder: Path) -> None:
    worker, logs = WorkerProcess(), [folder / f"{number}.log" for number in range(3)]
    worker.give(settings(folder, "lora"), logs[0])
    assert worker.outcome().status == "done"  # type: ignore[union-attr]
    worker.give(settings(folder, "bitfit", "train.max_steps=100000", "train.epochs=100000"), logs[1])
    worker.signal(signal.SIGKILL)
    outcome = worker.outcome()
    assert outcome is not None
    assert (outcome.status, outcome.exit) == ("failed", 1)
    assert "killed by SIGKILL" in worker.died
    worker.give(settings(folder, "prompt"), logs[2])
    assert worker.outcome().status == "done"  # type: ignore[union-attr]
    worker.end()
    assert "lora trains" in logs[0].read_text()
    assert "prompt trains" not in logs[0].read_text()
    assert "prompt trains" in logs[2].read_text()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_returns_to_its_level(folder: Path) -> None:
    """200 runs in one process. What runs may keep is bounded, so the curve must be flat."""
    methods, curve, status = ("lora", "full", "bitfit", "state_offset", "prefix"), [], []
    worker = WorkerProcess()
    for number in range(200):
        worker.give(settings(folder, methods[number % 5], f"seed={number}", "train.max_steps=2"), folder / "log")
        outcome = worker.outcome()
        assert outcome is not None
        status.append(outcome.status)
        assert worker.process is not None
        pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1])
        curve.append((worker.process.pid, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
    worker.end()
    print("MiB after every 10th run:", *(f"{size:.0f}" for _, size in curve[9::10]))
    assert status == ["done"] * 200
    assert len({pid for pid, _ in curve}) == 1
    level = max(size for _, size in curve[10:30])
    assert max(size for _, size in curve[30:]) < level + 32


def test_memory_in_use_is_told() -> None:
    before = memory_in_use()
    kept = bytearray(64 << 20)
    assert memory_in_use() - before > 32 << 20
    del kept


@pytest.mark.slow
def test_two_launchers_do_no_run_twice(folder: Path) -> None:
    line = settings(folder, "lora,bitfit,prompt,prefix", "seed=1,2", "hydra/launcher=local", "hydra.launcher.n_jobs=2")
    command = [sys.executable, "-m", "ssm_tune", "-m", *line]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [child.communicate(timeout=600) for child in both]
    assert [child.returncode for child in both] == [0, 0], told
    assert len(left(folder / "results")) == 8
    attempts = folder.glob("results/runs/*/.claims/*/[0-9]*.json")
    trained = [one for one in attempts if json.loads(one.read_text())["outcome"] == "done"]
    folders = {one.parent.name for one in trained}
    assert len(folders) == 8
    sessions = [run["record"]["sessions"] for run in left(folder / "results").values()]
    assert sessions == [1] * 8
    assert sum(out.count(" done ") for out, _ in told) == 8
