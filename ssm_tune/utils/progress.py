"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Protocol, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_SECONDS = 10.0
"""At most one plain line a phase in so many seconds."""
WARM_UP, PACE_SECONDS = 4, 60.0
"""Calls of ``advance`` that say nothing of the pace; and how far back the pace is looked at."""


class Progress(Protocol):
    """Where long work reports how far it is: a phase of ``total`` units, and a note beside the count."""

    def start(self, label: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, note: str) -> None: ...
    def stop(self) -> None: ...


class _Stderr(io.TextIOBase):
    """A stream that drops what cannot be written: progress is no reason to end a run, and a lost terminal fails."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
            self.stream.flush()
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()


class Bars:
    """One bar a phase, with a note (loss, learning rate, tokens a second) and the time left."""

    def __init__(self) -> None:
        self.console = Console(file=cast(TextIO, _Stderr(sys.stderr)))
        self.bars: RichProgress | None = None
        self.task: TaskID | None = None

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Begin a phase of ``total`` units, ``done`` of them in an earlier part of it."""
        self.bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.bars.start()
        self.task = self.bars.add_task(label, total=total, completed=done, note="")

    def advance(self, done: int, note: str) -> None:
        if self.bars is not None and self.task is not None:
            self.bars.update(self.task, advance=done, note=note)

    def stop(self) -> None:
        if self.bars is not None:
            self.bars.stop()
        self.bars = None

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class Pace:
    """How long the rest of a phase will take, by how it went lately.

    The first units are not counted: compilation, warm-up and the first touch of memory make them many times slower.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self._steps = 0
        self._seen = deque[tuple[float, int]]()

    def advance(self, done: int, now: float) -> None:
        self.done += done
        self._steps += 1
        if self._steps < WARM_UP:
            return
        self._seen.append((now, self.done))
        while len(self._seen) > WARM_UP and now - self._seen[0][0] > PACE_SECONDS:
            self._seen.popleft()

    def seconds_left(self) -> float | None:
        """None where too little was done to tell."""
        if len(self._seen) < WARM_UP or (here := self._seen[-1][1] - self._seen[0][1]) <= 0:
            return None
        return (self._seen[-1][0] - self._seen[0][0]) / here * (self.total - self.done)


class Lines:
    """The same in plain lines, for logs."""

    def __init__(self) -> None:
        self.label, self.last = "", 0.0

    def start(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.last = label, time.monotonic()
        self.pace = Pace(total, done)

    def advance(self, done: int, note: str) -> None:
        now = time.monotonic()
        self.pace.advance(done, now)
        if now - self.last < LINE_SECONDS:
            return
        self.last = now
        left = self.pace.seconds_left()
        parts = [f"{self.label} {self.pace.done}/{self.pace.total}", note, "" if left is None else f"{left:.0f} s left"]
        self.say("  ".join(filter(None, parts)))

    def stop(self) -> None:
        return

    def say(self, line: str) -> None:
        _Stderr(sys.stderr).write(f"{line}\n")


class Silent:
    """Nothing at all: for processes that another speaks for."""

    def start(self, label: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, note: str) -> None: ...
    def stop(self) -> None: ...
    def say(self, line: str) -> None: ...


class Named:
    """What one of several runs shows on a display, under the run's name."""

    def __init__(self, display: Bars | Lines, name: str) -> None:
        self.display, self.name = display, name

    def start(self, label: str, total: int, done: int = 0) -> None:
        self.display.start(f"{self.name}: {label}", total, done)

    def advance(self, done: int, note: str) -> None:
        self.display.advance(done, note)

    def stop(self) -> None:
        self.display.stop()

    def say(self, line: str) -> None:
        self.display.say(f"{self.name}: {line}")


Display = Bars | Lines | Silent | Named


def progress() -> Bars | Lines:
    """Bars where stderr is a terminal, else plain lines."""
    return Bars() if sys.stderr.isatty() else Lines()
