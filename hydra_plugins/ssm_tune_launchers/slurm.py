"""hydra/launcher=slurm: a job array, each task of which does one run or some; to wait for, or to submit and leave.

submitit hands the tasks to SLURM. Each run leaves its outcome in a file, which the launcher waits for. A task that is
about to be ended (time limit, preemption; SLURM sends SIGUSR2 or SIGTERM) saves its run and, where SLURM would not
start it again by itself, asks for that; it then resumes the run. A job that dies fails its own runs alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from hydra_plugins.ssm_tune_launchers.base import RunLauncher, tell
from ssm_tune.utils.errors import UserError

KILL_SECONDS = 5
"""Where SLURM kills a job, the worker may die a moment before the process that would call its run failed."""
PATIENCE = 30
"""Looks in a row at which a job may be missing without a result, before it counts as dead."""


class RunsJob(NamedTuple):  # no dataclass: those fail while Hydra scans for plugins
    """What a task of the array does: some runs, one after another in a worker process. submitit pickles it.

    runs: their numbers in the sweep, from 0, and their settings. folder: where their outcomes go. A job that was queued
    again does those that have none yet.
    """

    runs: list[tuple[int, list[str]]]
    folder: Path
    stop_on_error: bool
    max_requeues: int

    def __call__(self) -> None:
        from ssm_tune.sweeps.in_a_row import InARow

        with InARow(on_death=lambda run, line: time.sleep(KILL_SECONDS)) as row:
            for number, overrides in self.runs:
                if _read_outcome(self.folder, number) is not None:
                    continue
                outcome = row.run(overrides)
                print(f"{outcome.status}: {outcome.line or outcome.record}", file=sys.stderr, flush=True)
                if outcome.status == "stopped" and self._requeue():
                    os._exit(outcome.exit)  # without an outcome: the run's last word is yet to come
                _write_outcome(self.folder, number, outcome)
                if self.stop_on_error and outcome.status in ("failed", "diverged"):
                    break

    def _requeue(self) -> bool:
        """Put this job into the queue again, unless it was cancelled, SLURM did so already or it was there often.

        Returns whether it is there. A job that ends in its time of grace counts as failed, also where SLURM would have
        queued it again at the end of that time. Its state is SIGNALING for a moment after the signal.
        """
        for number in (signal.SIGTERM, signal.SIGUSR2):  # to be queued again brings another: scontrol ignores it, too
            signal.signal(number, signal.SIG_IGN)
        env = os.environ
        # the raw id of one of an array's tasks is the array's own: as a name it would stand for all of them
        array = env.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{env['SLURM_ARRAY_TASK_ID']}" if array else env["SLURM_JOB_ID"]
        starts = int(env.get("SLURM_RESTART_COUNT", "0"))
        state, counted = _state(job)
        queued, said = counted > starts, ""
        if state in ("RUNNING", "SIGNALING") and starts < self.max_requeues:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
            said = " ".join(done.stderr.split())
            queued = done.returncode == 0 or _state(job)[1] > starts
        how = f"is queued again, for the {starts + 1}. time" if queued else "is not put into the queue again"
        tell(f"job {job} ({state.lower() or 'gone'}, {starts} restarts) {how} {said}".rstrip())
        return queued


class SlurmLauncher(RunLauncher):
    """The settings of conf/hydra/launcher/slurm.yaml."""

    def __init__(
        self,
        wait: bool,
        poll_seconds: float,
        array_parallelism: int,
        time: int,
        signal_delay: int,
        max_requeues: int,
        cells_per_job: int,
        cpus_per_task: int,
        sbatch: Any,
        **options: Any,
    ) -> None:
        counts = {"array_parallelism": array_parallelism, "time": time, "cells_per_job": cells_per_job}
        for name, value in (counts | {"cpus_per_task": cpus_per_task}).items():
            if type(value) is not int or value < 1:
                raise UserError(f"hydra.launcher.{name} must be a whole number of at least 1, got {value!r}")
        self.wait, self.poll_seconds, self.max_requeues = wait, poll_seconds, max_requeues
        self.cells_per_job = cells_per_job
        given = {name: value for name, value in options.items() if value not in (None, [])}
        if "setup" in given:
            given["setup"] = [str(line) for line in given["setup"]]
        if "mem_gb" in given:
            given["mem"] = f"{given.pop('mem_gb')}GB"
        self.parameters = {
            **given,
            "time": time,
            "signal_delay_s": signal_delay,
            "array_parallelism": array_parallelism,
            "cpus_per_task": cpus_per_task,
            "job_name": "ssm-tune",
            "additional_parameters": {"requeue": True, **dict(sbatch or {})},
        }

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        from ssm_tune.sweeps.one_run import Outcome
        from ssm_tune.sweeps.run_sweep import returned

        if any(len(group) > 1 for group in self.groups):
            tell("sweep.together: hydra/launcher=slurm runs each run by itself")
        runs = [(number, list(overrides)) for number, overrides in enumerate(job_overrides)]
        size = self.cells_per_job
        tasks = self._submit([runs[start : start + size] for start in range(0, len(runs), size)])
        jobs = [tasks[number // size] for number, _ in runs]  # the one that does each run
        ids = f"{jobs[0].job_id.split('_')[0]}" + (f"_[0-{len(tasks) - 1}]" if len(tasks) > 1 else "")
        tell(f"submitted {ids}: {len(runs)} runs; logs in {self.folder}")
        if not self.wait:
            tell('see "ssm-tune status", squeue and scancel; the same command later runs what is missing')
            outcomes = [Outcome("submitted", f"job {job.job_id}") for job in jobs]
        else:
            outcomes = self._await(jobs, job_overrides)
        return [returned(run, outcome) for run, outcome in zip(job_overrides, outcomes, strict=True)]

    def _submit(self, tasks: Sequence[list[tuple[int, list[str]]]]) -> list[Any]:
        for program in ("sbatch", "srun"):
            if shutil.which(program) is None:
                raise UserError(
                    f"hydra/launcher=slurm: no {program} here: run on a login node, or with hydra/launcher=local"
                )
        try:
            import submitit
        except ImportError as error:
            raise UserError("hydra/launcher=slurm needs submitit: pip install 'ssm-tune[slurm]'") from error
        _check_partition(self.parameters.get("partition"))
        executor = submitit.SlurmExecutor(folder=self.make_folder(), max_num_timeout=self.max_requeues)
        try:
            executor.update_parameters(**self.parameters)
            with executor.batch():
                jobs = [
                    executor.submit(RunsJob(runs, self.folder.resolve(), self.stop_on_error, self.max_requeues))
                    for runs in tasks
                ]
            _ = jobs[0].job_id
        except submitit.core.utils.FailedJobError as error:
            lines = [line for line in str(error).splitlines() if line.startswith("sbatch: error:")] or [str(error)]
            raise UserError(f"SLURM takes no such job: {' '.join(lines).replace('sbatch: error: ', '')}") from error
        except (ValueError, subprocess.CalledProcessError) as error:
            raise UserError(f"hydra.launcher: {' '.join(str(error).split())[:300]}") from error
        return jobs

    def _await(self, jobs: Sequence[Any], runs: Sequence[Sequence[str]]) -> list[Any]:
        """Each run's outcome, told as it comes. jobs: of each run the one that does it. Ctrl-C leaves them to SLURM."""
        from ssm_tune.records.run_id import labels_of
        from ssm_tune.sweeps.one_run import Outcome

        labels = labels_of(runs)
        outcomes: dict[int, Outcome] = {}
        missing = dict.fromkeys(range(len(jobs)), 0)
        try:
            while missing:
                time.sleep(self.poll_seconds)
                queued = _queued(jobs[0].job_id.split("_")[0])
                for number in list(missing):
                    found = _read_outcome(self.folder, number) or _error(jobs[number])
                    if found is None and (queued is None or jobs[number].job_id in queued):
                        missing[number] = 0
                        continue
                    missing[number] += 1
                    # a result may take a while to be seen over a network file system
                    if found is None and missing[number] * self.poll_seconds < PATIENCE and missing[number] < PATIENCE:
                        continue
                    del missing[number]
                    outcomes[number] = found or _dead(jobs[number])
                    said = outcomes[number]
                    tell(f"[{len(outcomes)}/{len(jobs)}] {said.status:<8} {labels[number]}  {said.score or said.line}")
                    if self.stop_on_error and said.status in ("failed", "diverged") and missing:
                        left_over = sorted({jobs[i].job_id for i in missing})
                        tell(f"sweep.on_error=stop: cancelling {len(left_over)} jobs")
                        subprocess.run(["scancel", *left_over], check=False)
        except KeyboardInterrupt:
            tell(f"\nleaving {len(missing)} runs to SLURM; scancel {jobs[0].job_id.split('_')[0]} ends them")
        left = Outcome("submitted", "left to SLURM", exit=130)
        return [outcomes.get(number, left) for number in range(len(jobs))]


def _check_partition(wanted: str | None) -> None:
    """Refuse a partition that this cluster has not, with those that it has; sbatch would tell in lines of its own."""
    from ssm_tune.utils.errors import nearest

    there = sorted(set(_output(["sinfo", "-h", "-o", "%R"]).split()))
    for name in wanted.split(",") if wanted and there else ():
        if name not in there:
            raise UserError(f"this cluster has no partition {name!r}: {nearest(name, there)}")


def _outcome_path(folder: Path, number: int) -> Path:
    return folder / f"{number + 1}.json"


def _read_outcome(folder: Path, number: int) -> Any:
    """The outcome that a run left, None where there is none (yet)."""
    from ssm_tune.sweeps.one_run import Outcome
    from ssm_tune.utils.files import decode_json

    try:
        return Outcome(**decode_json(_outcome_path(folder, number).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write_outcome(folder: Path, number: int, outcome: Any) -> None:
    from ssm_tune.utils.files import atomic_write, encode_json

    try:
        atomic_write(_outcome_path(folder, number), [encode_json(asdict(outcome))])
    except UserError as error:  # a full disk: the runs behind this one may have theirs elsewhere
        tell(f"ssm-tune: {error}")


def _error(job: Any) -> Any:
    """The outcome of a run whose job has ended with an error of its own, None where it has not."""
    from ssm_tune.sweeps.one_run import Outcome

    if not job.paths.result_pickle.exists():
        return None
    kind, found = job._get_outcome_and_result()
    if kind == "success":
        return None
    return Outcome("failed", f"job {job.job_id}: {str(found).strip().splitlines()[-1]}", exit=1)


def _dead(job: Any) -> Any:
    """The outcome of a job that SLURM no longer knows and that left no result."""
    from ssm_tune.sweeps.one_run import Outcome

    log = Path(str(job.paths.stderr))
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    last = f"last line of {log}: {lines[-1]}" if lines else "it wrote no log"
    why = "cancelled, preempted, killed or no memory"
    return Outcome("failed", f"job {job.job_id} ended without a result ({why}); {last}", exit=1)


def _queued(array: str) -> set[str] | None:
    """The ids of an array's jobs that are not over; None where SLURM does not answer."""
    done = subprocess.run(["squeue", "-h", "-r", "-j", array, "-o", "%i"], capture_output=True, text=True, check=False)
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return set(done.stdout.split())


def _state(job: str) -> tuple[str, int]:
    """A job's state and how often SLURM has put it into the queue again; nothing and -1 where SLURM does not answer."""
    told = _output(["scontrol", "-o", "show", "job", job])
    state, restarts = (re.search(rf"\b{name}=(\w+)", told) for name in ("JobState", "Restarts"))
    return state[1] if state else "", int(restarts[1]) if restarts else -1


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
