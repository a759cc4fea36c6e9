"""hydra/launcher=local: runs in parallel worker processes of this machine, each of which does one after another.

A process that dies takes only its run with it. Ctrl-C asks the processes to save and end; a second one kills them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hydra_plugins.ssm_tune_launchers.base import RunLauncher, tell

POLL_SECONDS = 0.1
"""Between two looks at whether a signal has come; a run that is over is seen at once."""
PROGRESS_SECONDS = 30.0
"""Between two looks at how far the runs are."""
ONE_REQUEST_SECONDS = 0.5
"""Signals that come closer together than this are one request to stop."""
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class _Running(NamedTuple):  # no dataclass: those fail while Hydra scans for plugins
    group: list[int]
    worker: Any
    begun: float


class LocalLauncher(RunLauncher):
    """n_jobs: processes at a time; gpus: their numbers; threads: CPU threads a process; None: found out."""

    def __init__(
        self, n_jobs: int | None, gpus: Sequence[int | str] | None, cells_per_gpu: int, threads: int | None
    ) -> None:
        from ssm_tune.utils.errors import UserError

        for name, value in (("n_jobs", n_jobs), ("cells_per_gpu", cells_per_gpu), ("threads", threads)):
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"hydra.launcher.{name} must be a whole number of at least 1, got {value!r}")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        found = _gpus() if gpus is None else [str(gpu) for gpu in gpus]
        # run by run round the GPUs, so that a few runs do not share one while others are idle
        self.gpus: list[str | None] = [*found * cells_per_gpu]
        self.n_jobs = n_jobs or len(self.gpus) or cores
        if found and self.n_jobs > len(self.gpus):
            raise UserError(
                f"hydra.launcher.n_jobs={self.n_jobs} is more than the {len(found)} GPUs take with "
                f"cells_per_gpu={cells_per_gpu}: raise that, or gpus=[] for the CPU"
            )
        self.threads = threads or max(1, cores // self.n_jobs)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        from ssm_tune.experiment.signals import hear_signals
        from ssm_tune.records.run_id import labels_of
        from ssm_tune.sweeps.joined import split_for
        from ssm_tune.sweeps.one_run import Outcome
        from ssm_tune.sweeps.run_sweep import returned
        from ssm_tune.sweeps.worker_process import WorkerProcess

        self.runs, self.outcomes = job_overrides, dict[int, Outcome]()
        self.labels = labels_of(job_overrides)
        groups = list(self.groups) or [[number] for number in range(len(job_overrides))]
        self.waiting = split_for(groups, self.n_jobs) if self.together is None else groups
        self.running = list[_Running]()
        self.shown, self.spent, self.asked, self.stopped, heard = time.monotonic(), 0.0, 0.0, 0, list[int]()
        gpus = (self.gpus or [None] * self.n_jobs)[: self.n_jobs]
        self.free = [WorkerProcess(self._environment(gpu)) for gpu in gpus]
        where = f"GPUs {', '.join(str(gpu) for gpu in dict.fromkeys(self.gpus))}" if self.gpus else "the CPU"
        threads = f"{self.threads} thread{'s' * (self.threads > 1)} each"
        count = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}, {min(self.n_jobs, len(self.waiting))} at a time"
        tell(f"{count} on {where}, {threads}; logs in {self.make_folder()}")
        with hear_signals(lambda number, frame: heard.append(number)):
            try:
                while self.waiting or self.running:
                    self._turn()
                    while heard:
                        self._stop(heard.pop(0))
            except BaseException:
                self._kill()
                raise
            for worker in self.free:
                worker.end()
        gone = Outcome("not run", exit=128 + self.stopped if self.stopped else 0)
        return [returned(run, self.outcomes.get(i, gone)) for i, run in enumerate(job_overrides)]

    def _turn(self) -> None:
        """Start what there is room for; see which runs are over."""
        from ssm_tune.sweeps.worker_process import wait_for_any

        while self.free and self.waiting:
            self._start(self.waiting.pop(0), self.free.pop(0))
        wait_for_any([one.worker for one in self.running], POLL_SECONDS)
        for one in list(self.running):
            if (outcome := one.worker.outcome(wait=False)) is None:
                continue
            self.running.remove(one)
            self.free.insert(0, one.worker)  # the next run shares most with the one before it
            if one.worker.died and len(one.group) > 1 and not self.stopped:
                tell(f"the process of {len(one.group)} runs {one.worker.died}: each is resumed by itself")
                self.waiting[:0] = [[number] for number in one.group]
                continue
            found = [outcome, *one.worker.others] if not one.worker.died else [outcome] * len(one.group)
            self.spent += time.monotonic() - one.begun
            for number, outcome in zip(one.group, found, strict=True):
                self.outcomes[number] = self._asked_to_stop(outcome)
                self._say(one, number, outcome)
            failed = any(outcome.status in ("failed", "diverged") for outcome in found)
            if self.stop_on_error and failed and self.waiting:
                tell(f"sweep.on_error=stop: {sum(map(len, self.waiting))} runs are not started")
                self.waiting.clear()
        if time.monotonic() - self.shown > PROGRESS_SECONDS and not self.stopped:
            self.shown = time.monotonic()
            for one in self.running:
                self._show(one)

    def _asked_to_stop(self, outcome: Any) -> Any:
        """The outcome of a run that was stopped with the status of the signal that came here: it is told another."""
        if outcome.status != "stopped" or not self.stopped:
            return outcome
        return replace(outcome, exit=128 + self.stopped)

    def _environment(self, gpu: str | None) -> dict[str, str]:
        environment = os.environ | dict.fromkeys(THREAD_SETTINGS, str(self.threads))
        environment["TOKENIZERS_PARALLELISM"] = "false"
        return environment | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})

    def _start(self, group: list[int], worker: Any) -> None:
        first, *others = group
        self.running.append(_Running(group, worker, time.monotonic()))
        worker.give(self.runs[first], self._log(first), [self.runs[number] for number in others], self.together)

    def _say(self, one: _Running, number: int, outcome: Any) -> None:
        done, count = len(self.outcomes), len(self.runs)
        now = time.monotonic()
        line = f"[{done}/{count}] {outcome.status:<8} {self.labels[number]}"
        # of what is left, the runs under way have done a part; as many run at a time as there are processes
        mean = self.spent / done
        left = mean * (count - done) - sum(min(now - other.begun, mean) for other in self.running)
        going = (self.waiting or self.running) and not self.stopped
        rest = f", about {left / self.n_jobs / 60:.0f} min left" if going else ""
        tell(f"{line}  {outcome.score or outcome.line}  {now - one.begun:.0f} s{rest}")

    def _show(self, one: _Running) -> None:
        """Print how far a run is: the last line of its log."""
        first, *others = one.group
        name = self.labels[first] + (f" and {len(others)} more" if others else "")
        tell(f"  {name}: {last_line(self._log(first)) or 'starting'}")

    def _log(self, number: int) -> Path:
        return self.folder / f"{number + 1}.log"

    def _stop(self, signum: int) -> None:
        """The first time ask the processes to save and end, the second time end them."""
        if self.stopped and time.monotonic() - self.asked < ONE_REQUEST_SECONDS:
            return  # one request may come twice: "timeout" signals the process, and then its group
        self.asked = time.monotonic()
        if self.stopped:
            tell("killing them")
            self._kill()
            return
        self.stopped = signum
        self.waiting.clear()
        tell(
            f"\nstopping {sum(len(one.group) for one in self.running)} runs, which save what they have; once more "
            "kills them"
        )
        for one in self.running:
            one.worker.signal(signal.SIGTERM)

    def _kill(self) -> None:
        for one in self.running:
            one.worker.kill()


def last_line(log: Path) -> str:
    """The last line that a log has, cut to a line of a terminal."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:120] for line in reversed(lines) if line.strip()), "")


def _gpus() -> list[str]:
    """The GPUs to use, without importing torch: CUDA_VISIBLE_DEVICES, else what nvidia-smi lists."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in chosen.split(",") if gpu not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]
