"""The picture of a summary: mean score against what it takes, with the rows that no other beats in both joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssm_tune.reporting.figure_data import Series, front
from ssm_tune.reporting.palette import BASE_COLOUR, looks
from ssm_tune.reporting.table import BASE, Table
from ssm_tune.reporting.table_figures import defaults, drawable, plain, saved
from ssm_tune.reporting.table_spec import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (10.0, 4.6)
"""Inches; the letters are large enough for half of it."""


def draw(table: Table, series: Sequence[Series]) -> dict[str, bytes]:
    """The picture as {"png": ..., "svg": ...}: a panel a quantity (figure_data.pareto), a colour a method."""
    from matplotlib.figure import Figure

    with defaults():
        figure = Figure(figsize=SIZE, layout="constrained")
        panels = list(dict.fromkeys(one.panel for one in series))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, ax in zip(panels, axes, strict=True):
            _panel(ax, table, [one for one in series if one.panel == panel])
            ax.set_xlabel(drawable(QUANTITIES[panel]), fontsize=13)
        axes[0].set_ylabel("mean score (points)", fontsize=13)
        figure.suptitle(drawable(table.spec.title), fontsize=14)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, list(map(drawable, labels)), loc="outside right center", fontsize=11, frameon=False)
        return {name: saved(figure, name) for name in ("png", "svg")}


def _panel(ax: Axes, table: Table, series: Sequence[Series]) -> None:
    look = looks([(row.label, row.method) for row in table.rows if row.method != BASE])
    best = front([(one.x[0], one.y[0]) for one in series])
    ax.plot(*zip(*best, strict=True), color=BASE_COLOUR, linewidth=1.2, alpha=0.6, drawstyle="steps-post", zorder=1)
    for one in series:
        its = look[one.label]
        ax.plot(
            one.x,
            one.y,
            its.marker,
            color=its.colour,
            markersize=10,
            markeredgecolor="white",
            label=one.label,
            zorder=2,
        )
    ax.set_xscale("log")
    low, high = min(one.x[0] for one in series), max(one.x[0] for one in series)
    if high / low > 10:  # whole decades, so that two labels at least stand below
        ax.set_xlim(0.7 * 10 ** math.floor(math.log10(low)), 1.4 * 10 ** math.ceil(math.log10(high)))
    else:
        for axis_labels in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            axis_labels("{x:g}")
    ax.margins(x=0.1, y=0.1)
    plain(ax)
    ax.tick_params(labelsize=11)
    ax.tick_params(which="minor", labelsize=11)
