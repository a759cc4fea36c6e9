"""Signals that ask a run to stop: noted when they come, acted on where the run can save its state."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

from ssm_tune.utils.errors import Stopped, UserError

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
"""Ctrl-C, and what cluster schedulers send before they take a job's machine away."""
_ASKED: ContextVar[list[int] | None] = ContextVar("_ASKED", default=None)
"""Within ``stopping``: the signals that have come to it."""


class Interruption:
    """The request to stop, once there is one. signal: which signal brought it, None while there is none."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at_once: Callable[[], None] | None = None

    @contextmanager
    def at_once(self, save: Callable[[], None]) -> Iterator[None]:
        """Call ``save`` from the signal's handler itself: for work that may be long and cannot look up between.

        The work must not change what ``save`` saves.
        """
        self._at_once = save
        try:
            yield
        finally:
            self._at_once = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler. Raises KeyboardInterrupt for a Ctrl-C that is not the first request."""
        if self.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal = number
        if self._at_once is not None:
            with suppress(UserError):  # the work goes on to where it is saved again, and the error raised
                self._at_once()
            os.write(2, b"stopping as soon as this can be left (Ctrl-C again: at once)\n")


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Take note of ``SIGNALS`` inside the block; elsewhere than in the main thread, of nothing.

    A Ctrl-C that the process was started to ignore (as a shell's background job) stays ignored. Raises Stopped where
    ``stopping`` was asked to before.
    """
    if asked := _ASKED.get():
        raise stopped_early(asked[0])
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    taken = [one for one in SIGNALS if one != signal.SIGINT or signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, interruption.note) for one in taken}
    try:
        yield interruption
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)


@contextmanager
def stopping() -> Iterator[None]:
    """Inside the block the signals that ask for an end, other than Ctrl-C, raise Stopped, until ``interruptible`` takes
    them over; elsewhere than in the main thread nothing does.

    A library in which that happens may swallow the exception or make another of it, as OmegaConf does. So a request is
    remembered: once there was one, the block raises Stopped however it ends, and whatever error it may have led to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = _ASKED.get()
    asked: list[int] = [] if outer is None else outer

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raise stopped_early(number)

    token = _ASKED.set(asked)
    before = {one: signal.signal(one, stop) for one in SIGNALS if one != signal.SIGINT}
    try:
        yield
        if asked:
            raise stopped_early(asked[0])
    except Stopped:
        raise
    except Exception as error:
        if asked:
            raise stopped_early(asked[0]) from error
        raise
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        _ASKED.reset(token)


def stopped_early(number: int) -> Stopped:
    """What is raised where a signal comes before there is a state of the run."""
    return Stopped(f"stopped by {signal.Signals(number).name} before there was anything to save", number)
