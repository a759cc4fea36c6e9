"""The clock of a run: one phase at a time, and all of them together are the time that has passed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.utils import phases
from ssm_tune.utils.phases import PHASES, PhaseClock


class Time:
    """In place of time: moves on when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(phases, "time", found)
    return found


def test_an_inner_phase_is_not_the_outer_ones(passing: Time) -> None:
    clock = PhaseClock(99.0)
    with clock.one_run():
        clock.go_on("import")
        passing.now += 2
        with clock.phase("train"):
            passing.now += 4
            with clock.phase("kernels"):
                passing.now += 8
            with clock.phase("evaluate"), clock.phase("write"):
                passing.now += 16
            passing.now += 32
    assert clock.read() == {"start": 1, "import": 2, "kernels": 8, "train": 36, "evaluate": 0, "write": 16}


@given(st.lists(st.tuples(st.sampled_from(("in", "out", "on")), st.sampled_from(PHASES), st.integers(0, 5))))
def test_they_add_up_whatever_happens(moves: list[tuple[str, str, int]]) -> None:
    passing, before = Time(), phases.time
    phases.time = passing  # type: ignore[assignment]
    try:
        clock, inside = PhaseClock(passing.now), []
        for what, name, seconds in moves:
            if what == "in":
                inside.append(clock.phase(name))
                inside[-1].__enter__()
            elif what == "out" and inside:
                inside.pop().__exit__(None, None, None)
            else:
                clock.go_on(name)
            passing.now += seconds
        assert sum(clock.read().values()) == passing.now - 100.0
    finally:
        phases.time = before


def test_a_second_run_of_a_process_begins_anew(passing: Time) -> None:
    clock = PhaseClock(90.0)
    for expected in ({"start": 10, "train": 3}, {"import": 0, "train": 3}):
        with clock.one_run(), clock.one_run(), clock.phase("train"):
            passing.now += 3
        assert clock.read() == expected
        passing.now += 1000


def test_a_phase_of_another_thread_is_taken_from_the_one_that_waits(passing: Time) -> None:
    clock = PhaseClock(100.0)

    def compile_kernel() -> None:
        with clock.phase("kernels"):
            passing.now += 5

    with clock.phase("train"):
        thread = threading.Thread(target=compile_kernel)
        thread.start()
        thread.join()
        passing.now += 2
    assert clock.read() == {"start": 0, "kernels": 5, "train": 2}


def test_the_clock_begins_with_the_process() -> None:
    code = "import time; time.sleep(0.5); from ssm_tune.utils.phases import CLOCK; print(CLOCK.read()['start'])"
    begun = time.perf_counter()
    told = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.5 <= told <= time.perf_counter() - begun + 0.02  # the system counts in hundredths
