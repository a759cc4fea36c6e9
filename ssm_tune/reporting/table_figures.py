"""The figures of a table, as PNG and SVG: the same bytes for the same numbers, whatever the day, place or language."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ssm_tune.metrics.names import heading
from ssm_tune.reporting.figure_data import Series
from ssm_tune.reporting.palette import BASE_COLOUR, Look, looks
from ssm_tune.reporting.table import BASE, Table
from ssm_tune.reporting.table_spec import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
"""which matplotlib brings with it"""
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


def draw(kind: str, table: Table, series: Sequence[Series]) -> dict[str, bytes]:
    """The picture as {"png": ..., "svg": ...}. kind: "parameters", "loss", "scores" or "cost" (figure_data.py)."""
    from matplotlib.figure import Figure

    with defaults():
        panels = list(dict.fromkeys(one.panel for one in series))
        across = 2 if kind == "cost" else min(ACROSS, len(panels))
        down = -(-len(panels) // across)
        extra = 0.34 * max(1, len(table.rows) / (across * 1.7)) + 0.5
        height = 0.3 * len(table.rows) + 1.4 if kind == "cost" else PANEL[1] * down + extra
        width = 9.5 if kind == "cost" else max(PANEL[0] * across, 6.0)
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = [figure.add_subplot(down, across, place + 1) for place in range(len(panels))]
        for place, (panel, ax) in enumerate(zip(panels, axes, strict=True)):
            here = [one for one in series if one.panel == panel]
            {"parameters": parameters, "cost": _cost}.get(kind, _curve)(ax, table, panel, here)
            ax.set_title(drawable(QUANTITIES.get(panel, panel)), fontsize=9)
            if kind != "cost":
                _labels(ax, kind, table, panel, bottom=place + across >= len(panels), left=place % across == 0)
        figure.suptitle(drawable(table.spec.title), fontsize=11)
        if kind != "cost":
            _legend(figure, axes)
        return {name: saved(figure, name) for name in ("png", "svg")}


@contextmanager
def defaults() -> Iterator[None]:
    """matplotlib as it comes, whatever a user's own matplotlibrc says."""
    import matplotlib
    from matplotlib import style

    fixed: Any = {
        "svg.hashsalt": "ssm-tune",
        "font.family": FONT,
        "font.size": 8,
        "axes.formatter.use_locale": False,
    }
    with matplotlib.rc_context(), style.context("default"):
        matplotlib.rcParams.update(fixed)
        yield


def saved(figure: Figure, name: str) -> bytes:
    """The picture in the format of that name, with the versions that drew it and no date."""
    image = io.BytesIO()
    metadata = {"Software": engine()} if name == "png" else {"Creator": engine(), "Date": None}
    figure.savefig(image, format=name, dpi=DOTS, metadata=metadata)
    return image.getvalue()


def drawable(text: str) -> str:
    """The text as it is drawn: no mathematics, and escapes for what the font lacks, the same on every machine."""
    from matplotlib import font_manager

    there = font_manager.get_font(font_manager.findfont(FONT)).get_charmap()
    shown = (c if c.isprintable() and ord(c) in there else c.encode("unicode_escape").decode("ascii") for c in text)
    return "".join(shown).replace("$", r"\$")


def _looks(table: Table) -> dict[str, Look]:
    return looks([(row.label, row.method) for row in table.rows if row.method != BASE])


def parameters(ax: Axes, table: Table, panel: str, series: Sequence[Series]) -> None:
    from matplotlib.ticker import NullFormatter

    tuned, look = [one for one in series if one.x[0] > 0], _looks(table)
    for one in tuned:
        error = None if one.error[0] is None else [one.error[0]]
        style: Any = {"markersize": 5, "capsize": 2, "linestyle": "none", "linewidth": 1}
        style |= {"color": look[one.label].colour, "marker": look[one.label].marker}
        ax.errorbar(one.x, one.y, yerr=error, label=one.label, **style)
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())  # over less than two decades its labels would run into each other
    ax.margins(x=0.12, y=0.12)
    if tuned:  # whole decades, so that two labels at least stand below
        low, high = min(one.x[0] for one in tuned), max(one.x[0] for one in tuned)
        ax.set_xlim(0.8 * 10 ** math.floor(math.log10(low)), 1.25 * 10 ** math.ceil(math.log10(high)))
    for one in series:
        if one.x[0] == 0:
            _base(ax, one, [y for other in tuned for y in other.y])


def _base(ax: Axes, base: Series, others: Sequence[float]) -> None:
    """A line at the base model's score; words where the line would press all others into one."""
    value, low, high = base.y[0], min(others, default=math.nan), max(others, default=math.nan)
    far = max(low - value, value - high) > 2 * (high - low)
    if not far:
        ax.axhline(value, color=BASE_COLOUR, linestyle="--", linewidth=1, label=base.label)
        return
    place, side = (0.03, "bottom") if value < low else (0.97, "top")
    words = f"{base.label}: {value:.4g}, off the axis"
    ax.text(0.03, place, words, transform=ax.transAxes, color=BASE_COLOUR, fontsize=7, va=side)


def _curve(ax: Axes, table: Table, panel: str, series: Sequence[Series]) -> None:
    look = _looks(table)
    for one in series:
        its = look[one.label]
        style: Any = {"color": its.colour, "marker": its.marker if len(one.x) <= 12 else None}
        if its.dashes:
            style["dashes"] = its.dashes
        ax.plot(one.x, one.y, linewidth=1.2, markersize=3.5, label=one.label, **style)
    ax.set_xlim(left=0)


def _cost(ax: Axes, table: Table, panel: str, series: Sequence[Series]) -> None:
    """A line a method: a dot for each column, and a bar for their median."""
    look = _looks(table)
    names = [row.label for row in table.rows if row.method != BASE and any(row.label == one.label for one in series)]
    for one in series:
        at = len(names) - 1 - names.index(one.label)
        ordered, its = sorted(one.y), look[one.label]
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        ax.plot(one.y, [at] * len(one.y), "o", color=its.colour, alpha=0.45, markersize=5, markeredgewidth=0)
        ax.plot([middle, middle], [at - 0.3, at + 0.3], color=its.colour, linewidth=2)
    ax.set_yticks(
        range(len(names)), list(map(drawable, reversed(names))) if panel == "train_seconds" else [""] * len(names)
    )
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlim(0, 1.05 * max((y for one in series for y in one.y), default=1.0))
    if panel == "train_seconds":
        ax.set_xlabel("a dot a column of the table, a bar at their median")
    plain(ax)


def _labels(ax: Axes, kind: str, table: Table, panel: str, bottom: bool, left: bool) -> None:
    head = next(head for head in table.heads if head.column.name == panel)
    if kind == "loss":
        ax.set_ylabel("training loss (nats/token)" if left else "")
    else:
        ax.set_ylabel(drawable(heading(head.metric or head.show[0])))
    if bottom:
        ax.set_xlabel("trainable parameters" if kind == "parameters" else "optimizer step")
    plain(ax)


def plain(ax: Axes) -> None:
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(drawable(label), handle)
    columns = min(len(entries), max(3, math.floor(figure.get_figwidth() / 1.5)))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )
