"""What a picture shows where numbers are awkward; its bytes are looked at by test_reporting.py."""

from __future__ import annotations

import pytest

from ssm_tune.reporting.figure_data import Series
from ssm_tune.reporting.table_figures import _base

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    ("score", "others", "drawn"),
    [
        (2.4, [13.0, 58.0], True),
        (40.0, [13.0, 58.0], True),
        (0.0, [66.0, 72.0], False),
        (99.0, [10.0, 12.0], False),
        (5.0, [7.0], False),
        (7.0, [7.0], True),
        (5.0, [], True),
    ],
)
def test_a_base_score_far_from_all_others_is_said_and_not_drawn(score: float, others: list[float], drawn: bool) -> None:
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    ax.plot([1.0] * len(others), others, "o")
    before = ax.get_ylim()
    _base(ax, Series("dart", "base model", (0.0,), (score,), (None,)), others)
    said = [text.get_text() for text in ax.texts]
    assert (len(ax.lines) == 2, said) == ((True, []) if drawn else (False, [f"base model: {score:g}, off the axis"]))
    if not drawn:
        assert ax.get_ylim() == before
