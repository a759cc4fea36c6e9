"""The figures of a table, as PNG and SVG: the same bytes for the same numbers, whatever the day, place or language."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ssm_tune.metrics.names import heading
from ssm_tune.reporting.figure_data import Series
from ssm_tune.reporting.grid import FROZEN, Grid
from ssm_tune.reporting.table_spec import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by every kind of colour vision, and three more; with a marker each, for grey print
COLOURS = ("#000000", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#8C6D31", "#CC79A7", "#D55E00", "#7F3C8D",
           "#999933")  # fmt: skip
MARKERS = "sovD^P*Xph"
FROZEN_COLOUR = "#777777"
PANEL = (2.75, 2.2)
"""Inches of one panel."""
ACROSS = 5
"""Panels in a row at most."""
DOTS = 110


def engine() -> str:
    """What draws, with the versions on which a picture's bytes hang; it is written into every picture."""
    import matplotlib
    import PIL
    from matplotlib import ft2font

    return f"matplotlib {matplotlib.__version__}, FreeType {ft2font.__freetype_version__}, Pillow {PIL.__version__}"


def draw(kind: str, grid: Grid, series: Sequence[Series]) -> dict[str, bytes]:
    """The picture as {"png": ..., "svg": ...}. kind: "parameters", "loss", "scores" or "cost" (curves.py)."""
    from matplotlib.figure import Figure

    with _defaults():
        panels = list(dict.fromkeys(one.panel for one in series))
        across = 2 if kind == "cost" else min(ACROSS, len(panels))
        down = -(-len(panels) // across)
        extra = 0.34 * max(1, len(grid.rows) / (across * 1.7)) + 0.5
        height = 0.3 * len(grid.rows) + 1.4 if kind == "cost" else PANEL[1] * down + extra
        width = 9.5 if kind == "cost" else max(PANEL[0] * across, 6.0)
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = [figure.add_subplot(down, across, place + 1) for place in range(len(panels))]
        for place, (panel, ax) in enumerate(zip(panels, axes, strict=True)):
            here = [one for one in series if one.panel == panel]
            {"parameters": _parameters, "cost": _cost}.get(kind, _curve)(ax, grid, panel, here)
            ax.set_title(QUANTITIES.get(panel, panel), fontsize=9)
            if kind != "cost":
                _labels(ax, kind, grid, panel, bottom=place + across >= len(panels), left=place % across == 0)
        figure.suptitle(grid.layout.title, fontsize=11)
        if kind != "cost":
            _legend(figure, axes)
        return {name: _saved(figure, name) for name in ("png", "svg")}


@contextmanager
def _defaults() -> Iterator[None]:
    """matplotlib as it comes, whatever a user's own matplotlibrc says."""
    import matplotlib
    from matplotlib import style

    fixed: Any = {
        "svg.hashsalt": "ssm-tune",
        "font.family": "DejaVu Sans",
        "font.size": 8,
        "axes.formatter.use_locale": False,
    }
    with matplotlib.rc_context(), style.context("default"):
        matplotlib.rcParams.update(fixed)
        yield


def _saved(figure: Figure, name: str) -> bytes:
    image = io.BytesIO()
    metadata = {"Software": engine()} if name == "png" else {"Creator": engine(), "Date": None}
    figure.savefig(image, format=name, dpi=DOTS, metadata=metadata)
    return image.getvalue()


def _look(grid: Grid, label: str) -> dict[str, Any]:
    place = [row.label for row in grid.rows if row.method != FROZEN].index(label)
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def _parameters(ax: Axes, grid: Grid, panel: str, series: Sequence[Series]) -> None:
    from matplotlib.ticker import NullFormatter

    tuned = [one for one in series if one.x[0] > 0]
    for one in tuned:
        ax.errorbar(one.x, one.y, yerr=None if one.error[0] is None else [one.error[0]], markersize=5, capsize=2,
                    linestyle="none", linewidth=1, label=one.label, **_look(grid, one.label))  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())  # over less than two decades its labels would run into each other
    ax.margins(x=0.12, y=0.12)
    if tuned:  # whole decades, so that two labels at least stand below
        low, high = min(one.x[0] for one in tuned), max(one.x[0] for one in tuned)
        ax.set_xlim(0.8 * 10 ** math.floor(math.log10(low)), 1.25 * 10 ** math.ceil(math.log10(high)))
    for one in series:
        if one.x[0] == 0:
            _frozen(ax, one, [y for other in tuned for y in other.y])


def _frozen(ax: Axes, frozen: Series, others: Sequence[float]) -> None:
    """A line at the frozen model's score; words where the line would press all others into one."""
    value, low, high = frozen.y[0], min(others, default=math.nan), max(others, default=math.nan)
    far = max(low - value, value - high) > 2 * (high - low)
    if not far:
        ax.axhline(value, color=FROZEN_COLOUR, linestyle="--", linewidth=1, label=frozen.label)
        return
    place, side = (0.03, "bottom") if value < low else (0.97, "top")
    ax.text(0.03, place, f"{frozen.label}: {value:.4g}, off the axis", transform=ax.transAxes, color=FROZEN_COLOUR,
            fontsize=7, va=side)  # fmt: skip


def _curve(ax: Axes, grid: Grid, panel: str, series: Sequence[Series]) -> None:
    for one in series:
        short = len(one.x) <= 12
        look = _look(grid, one.label) | ({} if short else {"marker": None})
        ax.plot(one.x, one.y, linewidth=1.2, markersize=3.5, label=one.label, **look)
    ax.set_xlim(left=0)


def _cost(ax: Axes, grid: Grid, panel: str, series: Sequence[Series]) -> None:
    """A line a method: a dot for each column, and a bar for their median."""
    names = [row.label for row in grid.rows if row.method != FROZEN and any(row.label == one.label for one in series)]
    for one in series:
        at = len(names) - 1 - names.index(one.label)
        ordered = sorted(one.y)
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        ax.plot(one.y, [at] * len(one.y), "o", color=COLOURS[1], alpha=0.45, markersize=5, markeredgewidth=0)
        ax.plot([middle, middle], [at - 0.3, at + 0.3], color=COLOURS[7], linewidth=2)
    ax.set_yticks(range(len(names)), list(reversed(names)) if panel == "train_seconds" else [""] * len(names))
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlim(0, 1.05 * max((y for one in series for y in one.y), default=1.0))
    if panel == "train_seconds":
        ax.set_xlabel("a dot a column of the table, a bar at their median")
    _plain(ax)


def _labels(ax: Axes, kind: str, grid: Grid, panel: str, bottom: bool, left: bool) -> None:
    head = next(head for head in grid.heads if head.column.name == panel)
    if kind == "loss":
        ax.set_ylabel("training loss (nats/token)" if left else "")
    else:
        ax.set_ylabel(heading(head.metric or head.show[0]))
    if bottom:
        ax.set_xlabel("trainable parameters" if kind == "parameters" else "optimizer step")
    _plain(ax)


def _plain(ax: Axes) -> None:
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = min(len(entries), max(3, math.floor(figure.get_figwidth() / 1.5)))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )
