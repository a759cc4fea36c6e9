"""Claims: each cell runs once, whoever races for it, and a dead holder's cell goes to exactly one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.experiment import run_lock as locks_module
from ssm_tune.experiment.lock_file import STALE_SECONDS, is_held, newest_lock_file
from ssm_tune.experiment.run_lock import Locked, file_lock, lock_folder, run_lock
from ssm_tune.utils.errors import Stopped, UserError
from ssm_tune.utils.process import this_process

FORK = get_context("fork")


def _race(folders: list[Path], log: Path, start: Any, seconds: float) -> None:
    """Run every folder's cell that is to be had and not done: a line in ``log`` for each run to completion."""
    start.wait()
    for folder in folders:
        try:
            with run_lock(folder):
                if (folder / "record.json").exists():
                    continue
                time.sleep(seconds)
                with open(log, "a") as file:
                    file.write(f"{folder.name}\n")
                (folder / "record.json").write_text("{}")
        except Locked:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False], ids=["with hard links", "without"])
def test_many_processes_race_for_many_cells_and_each_runs_once(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    for turn in range(8):
        folders, log, start = (
            [tmp_path / f"{turn}" / f"cell{i}" for i in range(6)],
            tmp_path / f"{turn}.log",
            FORK.Event(),
        )
        racers = [FORK.Process(target=_race, args=(folders, log, start, 0.002 * (turn % 3))) for _ in range(8)]
        for racer in racers:
            racer.start()
        start.set()
        for racer in racers:
            racer.join()
            assert racer.exitcode == 0
        ran = log.read_text().splitlines()
        assert sorted(set(ran)) == sorted(ran)
        assert all((lock_folder(folder) / "0.json").exists() for folder in folders)


def _hold(folder: Path, held: Any) -> None:
    with run_lock(folder):
        held.set()
        time.sleep(600)


def killed_holder(folder: Path) -> None:
    held = FORK.Event()
    holder = FORK.Process(target=_hold, args=(folder, held))
    holder.start()
    assert held.wait(60)
    with pytest.raises(Locked, match=f"pid {holder.pid}"), run_lock(folder):
        pass
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()


def test_exactly_one_takes_over_from_a_holder_that_was_killed(tmp_path: Path) -> None:
    for turn in range(5):
        folder, log, start = tmp_path / f"cell{turn}", tmp_path / f"{turn}.log", FORK.Event()
        killed_holder(folder)
        last = newest_lock_file(lock_folder(folder))
        assert last is not None
        assert not is_held(last)
        racers = [FORK.Process(target=_race, args=([folder], log, start, 0.3)) for _ in range(8)]
        for racer in racers:
            racer.start()
        start.set()
        for racer in racers:
            racer.join()
        assert log.read_text().splitlines() == [folder.name]


def test_a_look_at_an_old_state_never_gives_a_cell_to_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that saw the dead claim is slow; meanwhile another takes over, finishes, and a third begins."""
    folder = tmp_path / "cell"
    killed_holder(folder)
    old = newest_lock_file(lock_folder(folder))
    with run_lock(folder):
        pass
    with run_lock(folder):
        looks = iter([old])
        real = locks_module.newest_lock_file
        monkeypatch.setattr(locks_module, "newest_lock_file", lambda locks: next(looks, None) or real(locks))
        with pytest.raises(Locked), run_lock(folder):
            pass


def test_no_more_processes_than_one_even_of_threads_and_calls_of_one_process(tmp_path: Path) -> None:
    with run_lock(tmp_path / "cell"), pytest.raises(Locked, match="another process is running this run"):
        run_lock(tmp_path / "cell").__enter__()


def write(folder: Path, age: float, **said: object) -> None:
    locks = lock_folder(folder)
    locks.mkdir(parents=True)
    here = this_process()
    (locks / "0.json").write_text(json.dumps({**here, "begun": "then", "outcome": None, **said}))
    then = time.time() - age
    os.utime(locks / "0.json", (then, then))


@pytest.mark.parametrize(
    ("said", "age", "free"),
    [
        ({"host": "other", "machine": "other"}, 0, False),
        ({"host": "other", "machine": "other"}, STALE_SECONDS - 60, False),
        ({"host": "other", "machine": "other"}, STALE_SECONDS + 60, True),
        ({"machine": "the same host after a boot, or another of its name"}, 5, False),
        ({"pid": 2**22 + 1}, 0, True),
        ({"start": "1"}, 0, True),  # the pid belongs to another process now
        ({"machine": "other", "job": "cluster/7", "restart": 0}, 0, True),  # this very job, before it was requeued
        ({"machine": "other", "job": "cluster/7", "restart": 1}, 0, False),
        ({"machine": "other", "job": "cluster/8", "restart": 0}, 0, False),
    ],
)
def test_who_is_gone(
    said: dict[str, Any], age: float, free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "cluster")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    folder = tmp_path / "cell"
    write(folder, age, **said)
    if free:
        with run_lock(folder):
            assert (lock_folder(folder) / "1.json").exists()
    else:
        with pytest.raises(Locked), run_lock(folder):
            pass


@pytest.mark.parametrize("skew", [-86400.0, 86400.0])
def test_a_clock_that_is_wrong_changes_nothing(skew: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system's clock counts: only the file's mtime is compared, with that of a file made now."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    for name, age, free in (("young", 60.0, False), ("old", STALE_SECONDS + 60, True)):
        write(tmp_path / name, age, host="other", machine="other")
        then = now() - age
        os.utime(lock_folder(tmp_path / name) / "0.json", (then, then))
        last = newest_lock_file(lock_folder(tmp_path / name))
        assert last is not None
        assert is_held(last) is not free


def test_a_damaged_claim_is_held_until_it_is_old(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    write(folder, 0)
    path = lock_folder(folder) / "0.json"
    path.write_text("{")
    with pytest.raises(Locked), run_lock(folder):
        pass
    os.utime(path, (0, 0))
    with run_lock(folder):
        pass


def test_the_heart_beats_and_a_process_that_lost_its_cell_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from ssm_tune.experiment import run_lock as module; module.HEARTBEAT_SECONDS = 0.1\n"
        "with module.run_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    folder = tmp_path / "cell"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    path = lock_folder(folder) / "0.json"
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 30
    while path.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (lock_folder(folder) / "1.json").write_text("{}")
    assert holder.wait(30) == 1
    assert "another has taken over" in holder.communicate()[1]


def test_how_an_attempt_ended(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    failed = folder / locks_module.FAILED_NAME

    def attempt(error: BaseException | None) -> dict[str, Any]:
        try:
            with run_lock(folder):
                if error:
                    raise error
        except type(error):  # type: ignore[misc]
            pass
        last = newest_lock_file(lock_folder(folder))
        assert last is not None
        return last.contents

    assert attempt(UserError("no data"))["outcome"] == "failed"
    assert json.loads(failed.read_text())["error"] == "no data"
    assert attempt(RuntimeError("out of\nmemory"))["error"] == "RuntimeError: out of"
    stopped = attempt(Stopped("step 3 is saved", 15))
    assert (stopped["outcome"], stopped["error"]) == ("stopped", "step 3 is saved")
    assert attempt(KeyboardInterrupt())["outcome"] == "stopped"
    assert failed.exists()
    with run_lock(folder):
        pass
    assert not failed.exists()
    assert [json.loads((lock_folder(folder) / f"{n}.json").read_text())["outcome"] for n in (0, 1)] == ["failed"] * 2


def test_who_waits_for_a_turn_looks_up_and_may_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks_module, "POLL_SECONDS", 0.01)
    looks = 0

    def poll() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise Stopped("stopped", signal.SIGTERM)

    path = tmp_path / "answers.json"
    with file_lock(path, poll):
        with pytest.raises(Stopped), file_lock(path, poll):
            pytest.fail("two have the turn")
        assert looks == 3
    with file_lock(path, poll):  # who has left stands in nobody's way
        assert looks == 3


@pytest.mark.parametrize(("number", "words"), [(errno.EROFS, "Read-only file system"), (errno.ENOSPC, "No space left")])
def test_a_folder_that_takes_no_file_is_one_line(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, content: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=words) as caught, run_lock(tmp_path / "cell"):
        pass
    assert "output_dir=DIR" in str(caught.value)
