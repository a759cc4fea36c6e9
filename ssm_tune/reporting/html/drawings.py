"""The report's drawings, as SVG: learning curves, and scores against what they take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ssm_tune.reporting.figure_data import Series, front
from ssm_tune.reporting.html.text import text
from ssm_tune.reporting.palette import looks
from ssm_tune.reporting.table import BASE, Table
from ssm_tune.reporting.table_spec import QUANTITIES

WIDTH, HEIGHT, LEFT, BOTTOM = 310, 190, 62, 24
"""Of a drawing and of the room for its labels, in CSS pixels."""
WIDE, HIGH = 620, 340
"""Of a picture of scores against what they take."""
LETTER, LINE = 7.2, 15
"""About the room of a letter and of a line in it."""


def key(table: Table) -> str:
    """What the lines and colours stand for: the rows that have any record."""
    labels = [
        row.label for row in table.rows if any(table.picked.get((row.label, head.column.name)) for head in table.heads)
    ]
    items = [
        f'<span><svg width="26" height="10" aria-hidden="true"><path d="M0 5H26" stroke-width="2" '
        f"{_stroke(table, label)}/></svg>{text(label)}</span>"
        for label in labels
    ]
    return f'<div class="key">{"".join(items)}</div>'


def _colours(table: Table, label: str) -> str:
    look = looks([(row.label, row.method) for row in table.rows if row.method != BASE])[label]
    return f'style="--light: {look.colour}; --dark: {look.dark}"'


def _stroke(table: Table, label: str) -> str:
    look = looks([(row.label, row.method) for row in table.rows if row.method != BASE])[label]
    dashes = f' stroke-dasharray="{" ".join(map(str, look.dashes))}"' if look.dashes else ""
    return f'class="row" {_colours(table, label)}{dashes}'


def panels(table: Table, series: Sequence[Series]) -> str:
    """A drawing for each panel, side by side; hidden with its task where it is a column's."""
    tasks = {head.column.name: head.column.tasks[0] for head in table.heads}
    titles = {head.column.name: head.title for head in table.heads}
    drawn = []
    for name in dict.fromkeys(one.panel for one in series):
        figure = curves(table, titles.get(name, name), [one for one in series if one.panel == name])
        drawn.append(f'<div data-task="{text(tasks[name])}">{figure}</div>' if name in tasks else figure)
    return f'<div class="panels">{"".join(drawn)}</div>'


def curves(table: Table, name: str, series: Sequence[Series]) -> str:
    """Lines from step 0; where there is one step alone, a dot a row."""
    if all(len(one.x) == 1 for one in series):
        return _dots(table, name, series)
    right = max(max(one.x) for one in series) or 1.0
    low, high = min(min(one.y) for one in series), max(max(one.y) for one in series)
    span = high - low or 1.0

    def at(x: float, y: float) -> str:
        across = LEFT + x / right * (WIDTH - LEFT - 8)
        return f"{across:.1f},{8 + (high - y) / span * (HEIGHT - BOTTOM - 16):.1f}"

    lines = []
    for one in series:
        places = [at(x, y) for x, y in zip(one.x, one.y, strict=True)]
        said = f"<title>{text(one.label)}: {one.y[-1]:.3g} at step {one.x[-1]:.0f}</title>"
        lines.append(f'<polyline points="{" ".join(places)}" {_stroke(table, one.label)}>{said}</polyline>')
        if len(places) <= 3:
            lines += [
                f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" {_stroke(table, one.label)} '
                'fill="var(--bg)"/>'
                for p in places
            ]
    floor = HEIGHT - BOTTOM
    ends = "; ".join(f"{one.label} ends at {one.y[-1]:.3g}" for one in series)
    return (
        f'<figure><figcaption>{text(name)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{text(f"{name}: {ends}")}">'
        f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH - 8}" y2="{floor}"/>'
        f'<line class="axis" x1="{LEFT}" y1="8" x2="{LEFT}" y2="{floor}"/>'
        f'<text x="{LEFT - 4}" y="14" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{floor - 2}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">0</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">{right:.0f} steps</text>'
        f"{''.join(lines)}</svg></figure>"
    )


def _dots(table: Table, name: str, series: Sequence[Series]) -> str:
    """Values of one step: a line for each row, the best first."""
    ordered = sorted(series, key=lambda one: -one.y[0])
    low, high = ordered[-1].y[0], ordered[0].y[0]
    first, last, span = 150, WIDTH - 50, (high - low) or 1.0
    height = LINE * len(ordered) + BOTTOM
    lines = []
    for number, one in enumerate(ordered):
        x, y = first + (one.y[0] - low) / span * (last - first), LINE * number + 10
        lines.append(
            f'<text x="0" y="{y + 4}">{text(shortened(one.label))}</text>'
            f'<line class="axis" x1="{first}" y1="{y}" x2="{last}" y2="{y}"/>'
            f'<circle cx="{x:.1f}" cy="{y}" r="4" class="mark" {_colours(table, one.label)}>'
            f"<title>{text(one.label)}: {one.y[0]:.3g}</title></circle>"
            f'<text x="{WIDTH - 4}" y="{y + 4}" text-anchor="end">{one.y[0]:.1f}</text>'
        )
    said = "; ".join(f"{one.label} {one.y[0]:.3g}" for one in ordered)
    return (
        f'<figure><figcaption>{text(name)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{text(f"{name}: {said}")}">{"".join(lines)}'
        f'<text x="{WIDTH - 4}" y="{height - 6}" text-anchor="end">at step {ordered[0].x[0]:.0f}</text></svg></figure>'
    )


def shortened(label: str) -> str:
    """A label as long as there is room for it."""
    return label if len(label) <= 22 else f"{label[:21]}\u2026"


def pareto(table: Table, series: Sequence[Series]) -> str:
    """A picture for each quantity: mean score against it, and a line through the rows that no other beats in both."""
    names = list(dict.fromkeys(one.panel for one in series))
    drawn = [_pareto(table, name, [one for one in series if one.panel == name]) for name in names]
    return f'<div class="panels">{"".join(drawn)}</div>'


def _pareto(table: Table, name: str, series: Sequence[Series]) -> str:
    costs, scores = [math.log10(one.x[0]) for one in series], [one.y[0] for one in series]
    left, width = min(costs), max(costs) - min(costs) or 1.0
    low, height = min(scores), max(scores) - min(scores) or 1.0

    def at(cost: float, score: float) -> tuple[float, float]:
        across = 60 + (math.log10(cost) - left) / width * (WIDE - 230)
        return across, 24 + (low + height - score) / height * (HIGH - 90)

    best = [at(cost, score) for cost, score in front([(one.x[0], one.y[0]) for one in series])]
    corners = [
        best[0],
        *(corner for (_, y), (x, end) in itertools.pairwise(best) for corner in ((x, y), (x, end))),
    ]
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    places = [at(one.x[0], one.y[0]) for one in series]
    marks = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" class="mark" {_colours(table, one.label)}>'
        f"<title>{text(one.label)}: {one.y[0]:.1f} points, {one.x[0]:,.0f}</title></circle>"
        for one, (x, y) in zip(series, places, strict=True)
    ]
    for one, (x, y) in zip(series, _labels([one.label for one in series], places), strict=True):
        marks.append(f'<text x="{x:.1f}" y="{y + 4:.1f}">{text(one.label)}</text>')
    floor, first, last = HIGH - 46, 10**left, 10 ** (left + width)
    said = "; ".join(f"{one.label} {one.y[0]:.1f} at {one.x[0]:,.0f}" for one in series)
    return (
        f'<figure class="pareto"><figcaption>mean score against {text(QUANTITIES[name])}</figcaption>'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" height="{HIGH}" role="img" aria-label="{text(said)}">'
        f'<line class="axis" x1="46" y1="{floor}" x2="{WIDE - 8}" y2="{floor}"/>'
        f'<line class="axis" x1="46" y1="8" x2="46" y2="{floor}"/>'
        f'<text x="40" y="28" text-anchor="end">{low + height:.1f}</text>'
        f'<text x="40" y="{floor - 16}" text-anchor="end">{low:.1f}</text>'
        f'<text x="60" y="{floor + 20}" text-anchor="middle">{first:,.0f}</text>'
        f'<text x="{WIDE - 170}" y="{floor + 20}" text-anchor="middle">{last:,.0f}</text>'
        f'<text x="{(WIDE - 110) / 2}" y="{floor + 38}" text-anchor="middle">{text(QUANTITIES[name])}, log scale</text>'
        f'<polyline class="front" points="{steps}"/>{"".join(marks)}</svg></figure>'
    )


def _labels(labels: Sequence[str], places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each label begins and at which height: beside its mark, above or below it, where nothing else stands."""
    taken = [(x - 8, x + 8, y) for x, y in places]
    found = []
    for label, (x, y) in zip(labels, places, strict=True):
        length = LETTER * len(label)
        right, left = x + 11, x - 11 - length
        near = [(start, y + down * LINE) for down in (0, -1, 1, -2, 2) for start in (right, left)]
        inside = [(start, height) for start, height in near if start > 46 and start + length < WIDE] or near[:1]
        free = [
            (start, height)
            for start, height in inside
            if not any(
                abs(height - other) < LINE and start < end and begin < start + length for begin, end, other in taken
            )
        ]
        best = (free or inside)[0]
        taken.append((best[0], best[0] + length, best[1]))
        found.append(best)
    return found
