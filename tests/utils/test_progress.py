"""The time that is said to be left."""

from __future__ import annotations

import time

import pytest

from ssm_tune.utils.progress import Lines


def said(seconds: list[float], monkeypatch: pytest.MonkeyPatch, total: int = 1000) -> list[tuple[int, float | None]]:
    """By steps done, the seconds left that plain lines say. seconds: of each step."""
    now, found = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines = Lines()

    def say(line: str) -> None:
        count, _, rest = line.removeprefix("training ").partition("/")
        left = [part.removesuffix(" s left") for part in rest.split("  ") if part.endswith(" s left")]
        found.append((int(count), float(left[0]) if left else None))

    monkeypatch.setattr(lines, "say", say)
    lines.start("training", total)
    for one in seconds:
        now += one
        lines.advance(1, "loss 1.0")
    return found


def test_slow_first_steps_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = said([20.0, 15.0, 5.0] + [0.5] * 400, monkeypatch)
    told = [(done, left) for done, left in found if left is not None]
    assert len(told) > 15
    for done, left in told:
        assert left == pytest.approx(0.5 * (1000 - done), rel=0.1)


def test_nothing_is_said_before_a_pace_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [left for _, left in said([30.0] * 3, monkeypatch)] == [None] * 3


def test_the_pace_is_that_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    done, left = said([1.0] * 200 + [4.0] * 40, monkeypatch)[-1]
    assert left == pytest.approx(4 * (1000 - done), rel=0.1)
