"""A worker as its launcher sees it: a process that is given runs, and is replaced where it ends or dies."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ssm_tune.sweeps.one_run import Outcome
from ssm_tune.utils.files import encode_json


def wait_for_any(workers: Sequence[WorkerProcess], seconds: float) -> bool:
    """Wait until one of them has an answer or has died; False where none has within so many seconds."""
    return bool(select.select([worker.answers for worker in workers if worker.answers], [], [], seconds)[0])


class WorkerProcess:
    """Runs at most one run at a time, or some that train together.

    It is in a session of its own: what asks to stop reaches the launcher alone, which passes it on. environment: of the
    process; None: ours.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.answers: IO[bytes] | None = None
        self._job: dict[str, Any] | None = None
        self.died = ""
        """how the process of the last run died, where it did"""
        self.others = list[Outcome]()
        """of the runs that trained with it, where its process lives"""

    def give(
        self,
        overrides: Sequence[str],
        log: Path | None = None,
        others: Sequence[Sequence[str]] = (),
        together: int | None = None,
    ) -> None:
        """Begin a run, in the process that there is or in a new one. log: the file that takes what it prints. others:
        runs that train with it, ``together`` at once (None: as pays)."""
        if log is not None:
            log.touch()
        self._job, self.died = {"overrides": list(overrides), "log": None if log is None else str(log)}, ""
        if others:
            self._job |= {"others": [list(run) for run in others], "together": together}
        self.others = list[Outcome]()
        if self.process is None or self.process.poll() is not None:
            self._replace()
        self._send()

    def outcome(self, wait: bool = True) -> Outcome | None:
        """The run's outcome once it is over; None where it is not, and ``wait`` is False.

        A process that dies gives a failed one, and ``died`` says how.
        """
        assert self.answers is not None
        while wait or wait_for_any([self], 0):
            line = self.answers.readline()
            if not line.endswith(b"\n"):
                return self._dead()
            answer = json.loads(line)
            if answer["ends"]:
                self.end()
            if answer["outcome"] is not None:
                self._job, self.others = None, [Outcome(**one) for one in answer["others"]]
                return Outcome(**answer["outcome"])
            self._replace()  # the run wants a process without others before it
            self._send()
        return None

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def end(self) -> None:
        """Let the process end, which it does when there are no more runs."""
        if self.process is not None and self.answers is not None:
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
            self.answers.close()
        self.process = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _replace(self) -> None:
        self.end()
        assert self._job is not None
        read, write = os.pipe()
        command = [sys.executable, "-m", "ssm_tune.sweeps.worker", str(write)]
        log = None if self._job["log"] is None else open(self._job["log"], "ab")  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[write],
                start_new_session=True,
            )
        finally:
            os.close(write)
            if log is not None:
                log.close()
        self.answers = os.fdopen(read, "rb")

    def _send(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, which the answer will tell
            self.process.stdin.write(encode_json(self._job) + b"\n")
            self.process.stdin.flush()

    def _dead(self) -> Outcome:
        assert self.process is not None
        assert self._job is not None
        status, log = self.process.wait(), self._job["log"]
        self.end()
        self._job = None
        if status in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return Outcome("stopped", "stopped before it had begun", exit=143)
        self.died = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        line = f"its process {self.died} (a crash of a library, or no memory)"
        if log is not None:
            printed = Path(log).read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
            line += f"; last line of {log}: {printed[-1]}"
        return Outcome("failed", line, exit=1)
