"""hydra/launcher=serial, the default: one run after another, in one worker process.

A run that takes the process with it (a segmentation fault, the kernel's out-of-memory killer) fails alone: a new worker
does the rest, and the next sweep passes the run over (ssm_tune/sweeps/run_sweep.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from hydra_plugins.ssm_tune_launchers.base import RunLauncher, tell


class SerialLauncher(RunLauncher):
    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        from ssm_tune.records.run_id import labels_of
        from ssm_tune.sweeps.run_sweep import returned

        jobs = []
        with _Worker() as worker:
            labels = labels_of(job_overrides)
            for number, (label, overrides) in enumerate(zip(labels, job_overrides, strict=True), start=1):
                tell(f"run {number} of {len(job_overrides)}: {label}")
                outcome = worker.run(overrides)
                if outcome.line:
                    tell(f"ssm-tune: run {number} {outcome.status}: {outcome.line}")
                jobs.append(returned(overrides, outcome))
                failed = outcome.status in ("failed", "diverged")
                if worker.stopped or outcome.status == "stopped" or (self.stop_on_error and failed):
                    break
        return jobs


class _Worker:
    """The process that does the runs; started for the first one, and again after one has died.

    It is in a session of its own: what asks to stop reaches this process alone, which passes it on. stopped: the number
    of the last signal that did, 0 while there was none.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.answers: Any = None
        self.stopped = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Worker:
        from ssm_tune.experiment.signals import SIGNALS

        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._end()
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def run(self, overrides: Sequence[str]) -> Any:
        """The outcome of one run. A process that dies gives a failed one."""
        from ssm_tune.sweeps.worker import Outcome

        if self.stopped:
            return self._not_begun()
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(list(overrides)).encode() + b"\n")
            self.process.stdin.flush()
            answer = self.answers.readline()
        except BrokenPipeError:
            answer = b""
        if answer:
            return Outcome(**json.loads(answer))
        return self._died(overrides)

    def _died(self, overrides: Sequence[str]) -> Any:
        from ssm_tune.sweeps.status import note_crash
        from ssm_tune.sweeps.worker import Outcome

        assert self.process is not None
        status = self.process.wait()
        self._end()
        if self.stopped:
            return self._not_begun()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        line = f"its process {how} (a crash of a library, or no memory)"
        note_crash(overrides, line)
        return Outcome("failed", line, exit=1)

    def _not_begun(self) -> Any:
        from ssm_tune.sweeps.worker import Outcome

        return Outcome("stopped", "stopped before it had begun", exit=128 + self.stopped)

    def _start(self) -> None:
        read, write = os.pipe()
        command = [sys.executable, "-m", "ssm_tune.sweeps.worker", "--serve", str(write)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[write], start_new_session=True)
        os.close(write)
        self.answers = os.fdopen(read, "rb")

    def _end(self) -> None:
        """Let the process end, which it does when there are no more runs."""
        if self.process is not None:
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
            self.answers.close()
        self.process = None

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.stopped = number
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
