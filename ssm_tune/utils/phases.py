"""Where the time of a run goes, from the start of its process: one phase at a time, so that they add up to the clock.

The clock is the process's, as the parts that take time lie in many rooms and know nothing of each other (standard
library only). Where a process does several runs, each begins where it was asked for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PHASES = ("start", "import", "data", "model", "kernels", "capture", "frozen", "train", "evaluate", "write")
"""start: Python and the first modules. import: the other modules, and the configuration. data: reading, and tokens.
model: the checkpoint, its hash, the adapter. kernels: compiling and loading. capture: of CUDA graphs. frozen: the base
model's predictions, where they are made. train: steps. evaluate: predictions and scores. write: checkpoints, record."""


class PhaseClock:
    """Seconds by phase. Phases nest: what an inner one takes is not the outer one's."""

    def __init__(self, begun: float) -> None:
        """begun: when the first run's process started, by time.perf_counter."""
        self._lock = threading.Lock()  # the backward of a step has threads of its own, in which kernels are compiled
        self._depth, self._used = 0, False
        self._begin(begun, PHASES[0])

    def _begin(self, begun: float, phase: str) -> None:
        self._seconds: dict[str, float] = {}
        self._phases, self._since = [phase], begun

    @contextmanager
    def one_run(self) -> Iterator[None]:
        """All of a run. The first one has begun with the process, others begin here; inner blocks change nothing."""
        if self._depth == 0 and self._used:
            self._begin(time.perf_counter(), "import")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._used = True

    def go_on(self, phase: str) -> None:
        """The innermost phase ends, and another takes its place."""
        with self._lock:
            self._count()
            self._phases[-1] = phase

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The block is a phase of its own."""
        with self._lock:
            self._count()
            self._phases.append(name)
        try:
            yield
        finally:
            with self._lock:
                self._count()
                self._phases.pop()

    def read(self) -> dict[str, float]:
        """Seconds so far of each phase that there was, in the order of ``PHASES``."""
        with self._lock:
            self._count()
            return {name: self._seconds[name] for name in PHASES if name in self._seconds}

    def _count(self) -> None:
        now = time.perf_counter()
        name = self._phases[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now


class MemberClock:
    """One run's share of the process's time, where several are under way in turn or together."""

    def __init__(self, clock: PhaseClock) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._counting: tuple[dict[str, float], float] | None = None

    @contextmanager
    def counting(self, share: float = 1.0) -> Iterator[None]:
        """A ``share`` of the time that the block takes is the run's."""
        self._counting = self._clock.read(), share
        try:
            yield
        finally:
            self._seconds, self._counting = self.read(), None

    def read(self) -> dict[str, float]:
        """As ``PhaseClock.read``."""
        found = dict(self._seconds)
        if self._counting is not None:
            before, share = self._counting
            for name, seconds in self._clock.read().items():
                found[name] = found.get(name, 0.0) + share * (seconds - before.get(name, 0.0))
        return {name: found[name] for name in PHASES if name in found}


def _process_start() -> float:
    """When this process started, by time.perf_counter; now where the system does not tell."""
    now = time.perf_counter()
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return now
    return now - max(age, 0.0)


CLOCK = PhaseClock(_process_start())
