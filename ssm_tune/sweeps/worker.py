"""A worker: a process that does runs one after another, and keeps what they share (experiment/shared.py).

    python -m ssm_tune.sweeps.worker FILE_DESCRIPTOR

Jobs come as JSON objects on standard input, a line each: ``overrides`` of the run, and ``log``, the file that takes
what it prints (null: nothing is redirected). For each an answer goes to the descriptor, a line of JSON: ``outcome``,
null where the run needs a process without others before it, and ``ends``, whether the worker takes no more jobs.
Runs that train together are one job: ``others`` are the settings of the others, ``together`` is how many at once (null:
as pays), and the answer's ``others`` are their outcomes.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ssm_tune.config.compose import Composer
from ssm_tune.experiment.shared import Shared
from ssm_tune.sweeps.joined_runs import run_joined
from ssm_tune.sweeps.one_run import Outcome, run_settings
from ssm_tune.sweeps.process_state import ProcessState
from ssm_tune.utils.files import encode_json
from ssm_tune.utils.phases import CLOCK


class Worker:
    """Does runs. run: what does one; gives None where it is not begun."""

    def __init__(self, run: Callable[[Sequence[str], Shared, Composer], Outcome | None] = run_settings) -> None:
        self._run = run
        self._shared, self._composer, self._state = Shared(), Composer(), ProcessState()

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer to a job."""
        if job["log"] is not None:
            _redirect(job["log"])
        self._state.before_run()
        others = job.get("others", [])
        outcomes: Sequence[Outcome | None] | None
        try:
            if others:
                outcomes = run_joined([job["overrides"], *others], job["together"], self._shared, self._composer)
            else:
                outcomes = [self._run(job["overrides"], self._shared, self._composer)]
        except KeyboardInterrupt:
            outcomes = [Outcome("stopped", "interrupted", exit=130)] * (1 + len(others))
        self._state.after_run()
        found = [asdict(outcome) for outcome in outcomes or () if outcome is not None]
        broken = not found or any(_may_be_broken(Outcome(**outcome)) for outcome in found)
        return {
            "outcome": found[0] if found else None,
            "others": found[1:],
            "ends": broken or self._state.leaks(),
        }


def _may_be_broken(outcome: Outcome) -> bool:
    """Whether a run has failed in a way that may have broken the process: unexpectedly, or without memory."""
    return outcome.status == "failed" and (outcome.exit != 2 or "out of GPU memory" in outcome.line)


def serve(answers: int) -> None:
    """Do the jobs that come, until one was the last. answers: the descriptor that answers go to.

    Where the input ends in the middle of a run, the process that asked for it has died: the run saves its state and
    stops.
    """
    jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    running = threading.Event()

    def read() -> None:
        for line in sys.stdin.buffer:
            jobs.put(json.loads(line))
        if running.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        jobs.put(None)

    threading.Thread(target=read, daemon=True).start()
    worker = Worker()
    with os.fdopen(answers, "wb") as file:
        while (job := jobs.get()) is not None:
            running.set()
            answer = worker.do(job)
            running.clear()
            file.write(encode_json(answer) + b"\n")
            file.flush()
            if answer["ends"]:
                return


def _redirect(log: str) -> None:
    """Send what is printed from now on, by libraries in C as well, to the end of a file."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)


if __name__ == "__main__":
    CLOCK.go_on("import")
    serve(int(sys.argv[1]))
