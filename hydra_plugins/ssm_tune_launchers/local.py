"""hydra/launcher=local: runs in parallel processes of this machine, each to itself.

A process that dies takes only its run with it. Ctrl-C asks the processes to save and end; a second one kills them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra_plugins.ssm_tune_launchers.base import RunLauncher, tell

POLL_SECONDS = 0.1
ONE_REQUEST_SECONDS = 0.5
"""Signals that come closer together than this are one request to stop."""
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class _Worker(NamedTuple):  # no dataclass: those fail while Hydra scans for plugins
    number: int
    process: subprocess.Popen[bytes]
    gpu: str | None
    begun: float
    result: Path
    log: Path


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
        from ssm_tune.experiment.signals import raise_stopped
        from ssm_tune.records.run_id import labels_of
        from ssm_tune.sweeps.run_sweep import returned
        from ssm_tune.sweeps.worker import Outcome
        from ssm_tune.utils.errors import Stopped

        self.runs, self.outcomes = job_overrides, dict[int, Outcome]()
        self.labels = labels_of(job_overrides)
        self.waiting, self.workers = list(range(len(job_overrides))), list[_Worker]()
        self.begun, self.asked, self.stopped = time.monotonic(), 0.0, 0
        self.free = (self.gpus or [None] * self.n_jobs)[: self.n_jobs]
        where = f"GPUs {', '.join(str(gpu) for gpu in dict.fromkeys(self.gpus))}" if self.gpus else "the CPU"
        tell(f"{self.n_jobs} processes on {where}, {self.threads} threads each; logs in {self.make_folder()}")
        while self.waiting or self.workers:
            try:
                with raise_stopped():
                    self._turn()
            except KeyboardInterrupt:
                self._stop(signal.SIGINT)
            except Stopped as error:
                self._stop(error.signal)
            except BaseException:
                self._kill()
                raise
        gone = Outcome("not run", exit=128 + self.stopped if self.stopped else 0)
        return [returned(run, self.outcomes.get(i, gone)) for i, run in enumerate(job_overrides)]

    def _turn(self) -> None:
        """Start what there is room for; see who has ended."""
        while self.free and self.waiting:
            self.workers.append(self._start(self.waiting.pop(0), self.free.pop(0)))
        time.sleep(POLL_SECONDS)
        for worker in [worker for worker in self.workers if worker.process.poll() is not None]:
            self.workers.remove(worker)
            self.free.append(worker.gpu)
            outcome = _outcome(worker)
            self.outcomes[worker.number] = outcome
            self._say(worker, outcome)
            if self.stop_on_error and outcome.status in ("failed", "diverged") and self.waiting:
                tell(f"sweep.on_error=stop: {len(self.waiting)} runs are not started")
                self.waiting.clear()

    def _start(self, number: int, gpu: str | None) -> _Worker:
        result, log = self.folder / f"{number + 1}.json", self.folder / f"{number + 1}.log"
        environment = os.environ | dict.fromkeys(THREAD_SETTINGS, str(self.threads))
        environment["TOKENIZERS_PARALLELISM"] = "false"
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        command = [sys.executable, "-m", "ssm_tune.sweeps.worker", str(result), *self.runs[number]]
        with open(log, "wb") as file:
            # a session of its own: Ctrl-C at the terminal reaches the launcher alone, which passes it on
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        return _Worker(number, process, gpu, time.monotonic(), result, log)

    def _say(self, worker: _Worker, outcome: Any) -> None:
        done, count = len(self.outcomes), len(self.runs)
        here = time.monotonic() - worker.begun
        left = (time.monotonic() - self.begun) / done * (len(self.waiting) + len(self.workers))
        line = f"[{done}/{count}] {outcome.status:<8} {self.labels[worker.number]}"
        rest = f", about {left / 60:.0f} min left" if self.waiting or self.workers else ""
        tell(f"{line}  {outcome.score or outcome.line}  {here:.0f} s{rest}")

    def _stop(self, signum: int) -> None:
        """The first time ask the processes to save and end, the second time end them."""
        if self.stopped and time.monotonic() - self.asked < ONE_REQUEST_SECONDS:
            return  # one request may come twice: "timeout" signals the process, and then its group
        self.asked = time.monotonic()
        if self.stopped:
            tell("killing them")
            self._kill()
            return
        self.stopped = int(signum)
        self.waiting.clear()
        tell(f"\nstopping {len(self.workers)} runs, which save what they have; once more kills them")
        for worker in self.workers:
            worker.process.terminate()

    def _kill(self) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()


def _outcome(worker: _Worker) -> Any:
    """What the process wrote, or that it died without a word."""
    from ssm_tune.sweeps.worker import Outcome
    from ssm_tune.utils.files import decode_json

    try:
        return Outcome(**decode_json(worker.result.read_bytes()))
    except (OSError, ValueError, TypeError):
        pass
    status = worker.process.returncode
    if status in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return Outcome("stopped", f"stopped before it had begun (log: {worker.log})", exit=143)
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    lines = worker.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
    return Outcome("failed", f"its process {how}; last line of {worker.log}: {lines[-1]}", exit=1)


def _gpus() -> list[str]:
    """The GPUs to use, without importing torch: CUDA_VISIBLE_DEVICES, else what nvidia-smi lists."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in chosen.split(",") if gpu not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]
