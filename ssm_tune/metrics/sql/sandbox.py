"""Runs untrusted SQL in separate processes, which are killed when a query does not end.

The processes are plain children that start ``worker.py``, not forks: the parent may have torch, threads and any
``__main__``, and nothing of it reaches a worker.
"""

import marshal
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ssm_tune.metrics.sql.tokens import MAX_LENGTH
from ssm_tune.utils.errors import UserError

Job = tuple[Path, str]
"""A database and a query."""

Rows = list[tuple[Any, ...]]

_START_LIMIT = 60.0  # seconds for a worker to start, on a machine however busy
_ANSWER_LIMIT = 60.0  # seconds without a byte of an answer that has begun


@dataclass(frozen=True)
class Limits:
    """Of one query: seconds, rows, bytes. A worker that does not stop at the time limit is killed ``grace`` later.

    memory: of a worker; a query gets half of it. value_size: of one value or row. sql_size: of the query's text.

    Raises:
        ValueError: the time limit is not above zero.
    """

    time_limit: float = 5.0
    grace: float = 0.25
    rows: int = 100_000
    result_size: int = 32 * 2**20
    value_size: int = 2**20
    memory: int = 512 * 2**20
    sql_size: int = 5 * MAX_LENGTH

    def __post_init__(self) -> None:
        if not self.time_limit > 0:
            raise ValueError(f"a time limit must be above zero, not {self.time_limit}")


@dataclass(frozen=True)
class Result:
    """What became of a query.

    rows: values as sqlite3 gives them; text that is not UTF-8 without what could not be decoded, and then
        ``undecodable`` says so. None where the query failed.
    error: why, in one line.
    timed_out: whether the time limit ended it.
    size: bytes in which the rows came, about what they take in memory.
    """

    rows: Rows | None = None
    error: str = ""
    timed_out: bool = False
    undecodable: bool = False
    size: int = field(default=0, compare=False)


class Pool:
    """A context in which queries run, ``workers`` at a time (default: one a processor, at most eight)."""

    def __init__(self, limits: Limits | None = None, workers: int | None = None) -> None:
        self.limits = limits or Limits()
        self.size = workers or min(_processors(), 8)
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._waiting: deque[tuple[Job, float]] = deque()
        self._done: deque[tuple[Job, Result]] = deque()
        self._fatal: set[Job] = set()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()
        self._selector.close()

    @property
    def busy(self) -> bool:
        """Whether ``next`` has a result to wait for."""
        return bool(self._waiting or self._done or any(worker.job for worker in self._workers))

    @property
    def has_room(self) -> bool:
        """Whether another query would start at once."""
        return not self._waiting and sum(worker.job is not None for worker in self._workers) < self.size

    def submit(self, job: Job, time_limit: float | None = None) -> None:
        """Queue a query. time_limit: in seconds, where another than that of the limits."""
        self._waiting.append((job, self.limits.time_limit if time_limit is None else time_limit))

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Results as they come, each job once however often it is named.

        Raises:
            UserError: no worker can be started.
        """
        for job in dict.fromkeys(jobs):
            self.submit(job)
        while self.busy:
            yield self.next()

    def next(self) -> tuple[Job, Result]:
        """Wait for the next result.

        Raises:
            UserError: no worker can be started.
            IndexError: nothing is queued or running.
        """
        while not self._done:
            if not self.busy:
                raise IndexError("no query is queued or running")
            while self._waiting and (worker := self._idle()):
                worker.start(*self._waiting.popleft())
            finished = [self._receive(key.data) for key, _ in self._selector.select(self._patience())]
            # the caller may have been busy meanwhile: a worker whose answer is waiting is not late
            answering = {key.data for key, _ in self._selector.select(0)}
            finished += [self._end(one) for one in list(self._workers) if one.late and one not in answering]
            self._done.extend(one for one in finished if one)
        return self._done.popleft()

    def _idle(self) -> "_Worker | None":
        """A worker without a job; a new one while there are too few."""
        for worker in self._workers:
            if worker.job is None:
                return worker
        if len(self._workers) >= self.size:
            return None
        worker = _Worker(self.limits)
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _patience(self) -> float:
        return max(0.0, min(worker.deadline for worker in self._workers if worker.job) - time.monotonic())

    def _receive(self, worker: "_Worker") -> tuple[Job, Result] | None:
        try:
            answer = worker.read()
        except EOFError:
            return self._end(worker)
        if answer is None or worker.job is None:
            return None
        job, worker.job = worker.job, None
        return job, Result(**answer, size=worker.size)

    def _end(self, worker: "_Worker") -> tuple[Job, Result] | None:
        """End a worker that is late or dead; its job's result, or None where the job runs again.

        A job whose worker died is run once more: something else may have killed that one.
        """
        late = worker.late
        self._selector.unregister(worker.answers)
        self._workers.remove(worker)
        worker.kill()
        if not worker.ready:
            raise UserError(
                f"the process that runs SQL did not start ({sys.executable} {_WORKER}, exit status "
                f"{worker.process.returncode}); is this Python whole, and is there memory left?"
            )
        if worker.job is None:
            return None
        status = worker.process.returncode
        if late or status == -signal.SIGALRM:  # its own alarm may be the first to go off
            return worker.job, Result(error="time limit", timed_out=True)
        if worker.job not in self._fatal:
            self._fatal.add(worker.job)
            self._waiting.appendleft((worker.job, worker.time_limit))
            return None
        return worker.job, Result(error=f"the process that ran it died twice (exit status {status})")


_WORKER = Path(__file__).with_name("worker.py")


class _Worker:
    """One process: its job, how long it may take, and the part of its answer that has come."""

    def __init__(self, limits: Limits) -> None:
        # -I -S: nothing of the user's site or environment; it needs the standard library only
        command = [sys.executable, "-I", "-S", str(_WORKER)]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
        except OSError as error:
            raise UserError(f"cannot start a process to run SQL in: {error}") from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.questions, self.answers = self.process.stdin, self.process.stdout
        self.ready = False
        self.job: Job | None = None
        self.time_limit = limits.time_limit
        self.size = 0
        self._received = bytearray()
        self._limits = limits
        self.deadline = time.monotonic() + _START_LIMIT
        self._send(asdict(limits))

    @property
    def late(self) -> bool:
        return self.job is not None and time.monotonic() >= self.deadline

    def start(self, job: Job, time_limit: float) -> None:
        self.job, self.time_limit = job, time_limit
        if self.ready:
            self._begin_time()
        path, sql = job
        self._send((f"{path.resolve().as_uri()}?mode=ro&immutable=1", sql, time_limit))

    def read(self) -> dict[str, Any] | None:
        """The answer, once all of it has come.

        Raises:
            EOFError: the process has ended.
        """
        piece = os.read(self.answers.fileno(), 2**20)
        if not piece:
            raise EOFError
        self._received += piece
        # the query is over once its answer has begun; how long that takes depends on this process, too
        self.deadline = time.monotonic() + _ANSWER_LIMIT
        answer = self._message()
        if not self.ready and answer is not None:
            self.ready = True
            self._begin_time()
            answer = self._message()  # may have come in the same piece
        return answer

    def _message(self) -> Any:
        """The first complete message of the bytes received, which it is removed from; None if there is none."""
        end = 8 + int.from_bytes(self._received[:8], "big")
        if len(self._received) < 8 or len(self._received) < end:
            return None
        message = marshal.loads(bytes(self._received[8:end]))
        self.size = end
        del self._received[:end]
        return message

    def _begin_time(self) -> None:
        self.deadline = time.monotonic() + self.time_limit + self._limits.grace

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.questions.close()
        self.answers.close()

    def _send(self, message: Any) -> None:
        body = marshal.dumps(message)
        view = memoryview(len(body).to_bytes(8, "big") + body)
        with suppress(BrokenPipeError):  # it has died: the next read raises EOFError
            while view:
                view = view[os.write(self.questions.fileno(), view) :]


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
