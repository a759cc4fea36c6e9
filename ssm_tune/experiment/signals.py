"""Signals that ask a run to stop: noted when they arrive, acted on where the run can save its state."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

from ssm_tune.utils.errors import Stopped, UserError

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
"""Ctrl-C, a lost terminal, and what cluster schedulers send before they take a job's machine away."""
_RECEIVED: ContextVar[list[int] | None] = ContextVar("_RECEIVED", default=None)
"""The one context variable of the package: the signals that ``raise_stopped`` has received, as Python calls a signal's
handler without arguments of ours, and ``note_signals`` may be called far below it."""


class StopRequest:
    """signal: the signal that asked to stop; None while there was none."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._save: Callable[[], None] | None = None

    @contextmanager
    def save_at_once(self, save: Callable[[], None]) -> Iterator[None]:
        """Inside the block a signal's handler itself calls ``save``: for long work that cannot poll.

        The work must not change what ``save`` saves.
        """
        self._save = save
        try:
            yield
        finally:
            self._save = None

    def handler(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler. Raises KeyboardInterrupt for a Ctrl-C that is not the first request."""
        if self.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal = number
        if self._save is not None:
            with suppress(UserError):  # the work continues to where the state is saved again, and the error raised
                self._save()
            with suppress(OSError):  # a lost terminal
                os.write(2, b"stopping as soon as this can be left (Ctrl-C again: at once)\n")


@contextmanager
def note_signals() -> Iterator[StopRequest]:
    """Note ``SIGNALS`` inside the block; outside the main thread, none.

    A signal that the process was started to ignore stays ignored: Ctrl-C by a shell's background job, a hangup under
    nohup. Raises Stopped where ``raise_stopped`` has received a signal before.
    """
    if received := _RECEIVED.get():
        raise stopped_early(received[0])
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handler) for number in _not_ignored()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def raise_stopped() -> Iterator[None]:
    """Inside the block ``SIGNALS`` other than Ctrl-C raise Stopped, until ``note_signals`` takes over; outside the main
    thread none does.

    A library in which that happens may swallow the exception or replace it, as OmegaConf does. So the signal is
    remembered: after one the block raises Stopped however it ends, and whatever error it may have led to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = _RECEIVED.get()
    received: list[int] = [] if outer is None else outer

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise stopped_early(number)

    token = _RECEIVED.set(received)
    before = {number: signal.signal(number, stop) for number in _not_ignored() if number != signal.SIGINT}
    try:
        yield
        if received:
            raise stopped_early(received[0])
    except Stopped:
        raise
    except Exception as error:
        if received:
            raise stopped_early(received[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _RECEIVED.reset(token)


@contextmanager
def hear_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside the block ``SIGNALS`` call ``handler``, which must not raise, but for those that are ignored."""
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def _not_ignored() -> list[int]:
    ignorable = [number for number in SIGNALS if number in (signal.SIGINT, getattr(signal, "SIGHUP", None))]
    return [n for n in SIGNALS if n not in ignorable or signal.getsignal(n) is not signal.SIG_IGN]


def stopped_early(number: int) -> Stopped:
    """What is raised where a signal arrives before there is a state to save."""
    return Stopped(f"stopped by {signal.Signals(number).name} before there was anything to save", number)
