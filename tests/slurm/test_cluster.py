"""A sweep on a real SLURM of one node: jobs cancelled, preempted, killed; the same line finishes it.

Needs root and Debian's slurm-wlm and munge (apt-get install); skipped with the reason where they are missing.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.records.record import find_records

# limits for a machine that hangs, not for one that is busy
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm_cluster.sh"
CELLS = ["method=state_offset_y", "task=glue_rte", "model=tiny", "data=sample", "seed=1,2,3,4,5,6", "frozen=false",
         "train.max_steps=30", "decode.batch_size=64"]  # fmt: skip
SLURM = ["hydra/launcher=slurm", "hydra.launcher.poll_seconds=1", "hydra.launcher.cpus_per_task=1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cluster's folder; its daemons end with the tests."""
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("the daemons of a test cluster need root")
    folder = tmp_path_factory.mktemp("cluster")
    try:
        started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, timeout=120)
        if started.returncode:
            pytest.skip(f"SLURM does not start here: {started.stderr[-500:]}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            patch.setenv("OMP_NUM_THREADS", "1")
            yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], timeout=60, check=False)


def ssm_tune(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ssm_tune", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    print(f"$ ssm-tune {' '.join(arguments)}\n{done.stdout}{done.stderr}[status {done.returncode}]\n", flush=True)
    return done


def eventually(what: str, found: Callable[[], Any], seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {what}")


def attempts(cwd: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in cwd.glob("results/runs/*/.claims/*/[0-9]*.json")]
    return sorted(found, key=lambda attempt: attempt["begun"])


def running(cwd: Path) -> dict[str, dict[str, Any]]:
    """The attempts that hold their cell, by SLURM job."""
    return {one["job"].rpartition("/")[2]: one for one in attempts(cwd) if one["outcome"] is None}


def squeue(what: str) -> str:
    return subprocess.run(["squeue", "-h", "-o", what], capture_output=True, text=True, check=True).stdout


def test_a_sweep_survives_cancelling_preemption_and_a_kill(cluster: Path, tmp_path: Path) -> None:
    first = ssm_tune("-m", *CELLS, *SLURM, "hydra.launcher.wait=false", cwd=tmp_path)
    assert first.returncode == 0
    assert "6 submitted" in first.stdout

    def next_job(seen: set[str]) -> str:
        return str(
            eventually("a job that runs", lambda: next((job for job in running(tmp_path) if job not in seen), None))
        )

    cancelled = next_job(set())
    names = dict(line.split()[::-1] for line in squeue("%i %A").splitlines())  # of array tasks, by job
    subprocess.run(["scancel", names[cancelled]], check=True)
    killed = next_job({cancelled})
    os.kill(running(tmp_path)[killed]["pid"], signal.SIGKILL)
    preempted = next_job({cancelled, killed})
    # what SLURM sends ahead of a limit; scancel --signal tries again on some errors and may send it twice
    os.kill(running(tmp_path)[preempted]["pid"], signal.SIGUSR2)
    print(f"cancelled {cancelled}, killed {killed}, preempted {preempted}")
    eventually("the queue is empty", lambda: not squeue("%i"))

    tried = attempts(tmp_path)
    for attempt in tried:
        print({name: attempt.get(name) for name in ("label", "job", "restart", "outcome", "error")})
    by_job = {job: [one for one in tried if one["job"].endswith(f"/{job}")] for job in (cancelled, killed, preempted)}
    assert [one["outcome"] for one in by_job[preempted]] == ["stopped", "done"]
    assert [one["restart"] for one in by_job[preempted]] == [0, 1]
    assert [one["outcome"] for one in by_job[killed]] == [None]
    assert "done" not in [one["outcome"] for one in by_job[cancelled]]
    assert len(find_records(tmp_path / "results")[0]) == 4
    before = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}

    status = ssm_tune("status", *CELLS, cwd=tmp_path)
    assert status.returncode == 1
    assert "4 done" in status.stdout
    assert "1 stale" in status.stdout

    again = ssm_tune("-m", *CELLS, *SLURM, cwd=tmp_path)
    assert again.returncode == 0
    assert "4 done already, 2 to run" in again.stderr
    assert "2 done" in again.stdout
    assert "4 kept" in again.stdout
    records, warnings = find_records(tmp_path / "results")
    assert len(records) == 6
    assert not warnings
    assert all(path.read_bytes() == content for path, content in before.items())
    finished = [one["label"] for one in attempts(tmp_path) if one["outcome"] == "done"]
    assert sorted(finished) == sorted(set(finished))  # no cell ran twice to completion
    assert len(finished) == 6
    assert ssm_tune("status", *CELLS, cwd=tmp_path).returncode == 0

    third = ssm_tune("-m", *CELLS, *SLURM, cwd=tmp_path)
    assert third.returncode == 0
    assert "6 done already, 0 to run" in third.stderr


@pytest.mark.parametrize(("partition", "seeds"), [("graced", [1, 2]), ("ungraced", [1])])
def test_a_preempted_cell_comes_back_once_and_ends_as_an_undisturbed_one(
    partition: str, seeds: list[int], cluster: Path, tmp_path: Path
) -> None:
    """In "graced" the job itself has to queue again, in "ungraced" SLURM does; each time the command waits for it.

    Of two cells the later one's job has the raw id of the whole array. The undisturbed run is the preempting job.
    """
    cells = [*CELLS[:4], "frozen=false", "train.max_steps=100", "decode.batch_size=64", "checkpoint.steps=5"]
    calm, swept = tmp_path / "calm", tmp_path / "swept"
    calm.mkdir()
    swept.mkdir()
    command = [sys.executable, "-m", "ssm_tune", "-m", *cells, f"seed={','.join(map(str, seeds))}", *SLURM,
               f"hydra.launcher.partition={partition}"]  # fmt: skip
    with subprocess.Popen(command, cwd=swept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sweep:
        try:
            saved = "results/runs/*/*/checkpoint*"  # the first one, in training
            eventually("all train", lambda: len({path.parent for path in swept.glob(saved)}) == len(seeds))
            undisturbed = shlex.join([sys.executable, "-m", "ssm_tune", *cells, "seed=1"])
            urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=log", f"--wrap={undisturbed}"]
            subprocess.run(urgent, cwd=calm, check=True)
            out, err = sweep.communicate(timeout=900)
        finally:
            sweep.kill()
    print(out, err, *(path.read_text() for path in swept.glob("results/multirun/*/*_log.err")), sep="\n")
    assert sweep.returncode == 0
    assert f"{len(seeds)} done" in out
    assert "failed" not in err + out
    assert "stopped" not in err + out
    tried = attempts(swept)
    for attempt in tried:
        print({name: attempt.get(name) for name in ("label", "job", "restart", "outcome", "error")})
    for seed in seeds:
        mine = [one for one in tried if one["label"].endswith(f" seed={seed}")]
        assert [(one["restart"], one["outcome"]) for one in mine] == [(0, "stopped"), (1, "done")]
        assert mine[0]["job"] == mine[1]["job"]
        assert "saved (step " in mine[0]["error"]
    logs = [path.read_text() for path in swept.glob("results/multirun/*/*_log.err")]
    for log in logs:
        assert log.count("is queued again, for the 1. time") == 1
        assert log.count("resuming this run (step ") == 1
        assert ("DUE TO PREEMPTION" in log) == (partition == "ungraced")
    ((_, expected),) = find_records(calm / "results")[0]
    ((_, found),) = [one for one in find_records(swept / "results")[0] if one[1]["cell"]["seed"] == 1]
    assert (expected["sessions"], found["sessions"]) == (1, 2)
    assert found["metrics"] == expected["metrics"]
    eventually("the queue is empty", lambda: not squeue("%i"))


def test_a_partition_that_is_not_there_is_one_line(cluster: Path, tmp_path: Path) -> None:
    done = ssm_tune("-m", *CELLS, *SLURM, "hydra.launcher.partition=mian", cwd=tmp_path)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("ssm-tune:")]
    assert told == ["ssm-tune: this cluster has no partition 'mian': did you mean main?"]
    assert "Traceback" not in done.stderr


def test_without_sbatch_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = ssm_tune("-m", *CELLS, *SLURM, cwd=tmp_path)
    assert done.returncode == 2
    assert "no sbatch here" in done.stderr.splitlines()[-1]
