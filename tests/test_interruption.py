"""Signals: noted, acted on at once where asked, a second Ctrl-C not swallowed, handlers given back."""

from __future__ import annotations

import signal
import threading

import pytest

from ssm_tune.interruption import SIGNALS, interruptible


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> object:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number: int) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with interruptible() as interruption:
        assert interruption.signal is None
        signal.raise_signal(number)
        assert interruption.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_work_that_cannot_look_up_is_saved_by_the_handler_once() -> None:
    saved: list[int] = []
    with interruptible() as interruption, interruption.at_once(lambda: saved.append(1)):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert saved == [1]


def test_another_thread_hears_nothing() -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    seen: list[object] = []

    def work() -> None:
        with interruptible():
            seen.extend(signal.getsignal(one) for one in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before
