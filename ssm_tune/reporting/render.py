"""A table as text, ready to be written; for a terminal and as Markdown (export_formats.py: LaTeX and CSV)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ssm_tune.metrics.names import heading
from ssm_tune.reporting.escape import NOTHING, markdown_text
from ssm_tune.reporting.published import Published
from ssm_tune.reporting.table import BASE, Row, Stat, Table, Value
from ssm_tune.reporting.table_spec import LAST, QUANTITIES, SUMMARY
from ssm_tune.utils.text import printable

LOWER_IS_BETTER = ("outside_labels", "timed_out", *QUANTITIES)
"""Whose best is not the highest: no number of theirs is set in bold."""
GAP = 2
"""Blanks between two columns of a terminal."""


@dataclass(frozen=True)
class Line:
    """bold: the places of cells that are the best of their column; numbers: what cells say, whole, where it is one."""

    group: str
    cells: tuple[str, ...]
    bold: frozenset[int] = frozenset()
    numbers: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class TextTable:
    """heads: (column, what it shows), the first of them the methods' own."""

    name: str
    title: str
    heads: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def text_table(table: Table, published: Published | None = None) -> TextTable:
    """The table's numbers as they are printed, with published values and the differences beside ours where given."""
    theirs = published.of(table) if published else {}
    heads: list[tuple[str, str]] = [("", "method")]
    cells: list[list[tuple[str, float | None]]] = [[(row.label, None)] for row in table.rows]
    bold: list[set[int]] = [set() for _ in table.rows]

    def add(column: str, what: str, entries: Iterable[tuple[str, float | None]]) -> None:
        heads.append((column, what))
        for line, entry in zip(cells, entries, strict=True):
            line.append(entry)

    for what in table.spec.summary:
        add("", SUMMARY[what], ((_summary_cell(row, what), row.summary.get(what)) for row in table.rows))
    if not any(what in ("share", "trainable") for head in table.heads for what in (*head.show, *table.spec.summary)):
        for model in dict.fromkeys(head.column.model for head in table.heads):
            shares = [row.shares.get(model) for row in table.rows]
            add(model, "trainable", ((NOTHING if one is None else f"{100 * one:.3g}%", one) for one in shares))
    for head in sorted(table.heads, key=lambda head: head.column.name in table.apart):
        apart = " (apart)" if head.column.name in table.apart else ""
        for place, what in enumerate(head.show):
            values = [row.values[head.column.name][place] for row in table.rows]
            for index in _best(what, table.rows, values):
                bold[index].add(len(heads))
            means = [None if value.stat is None else value.stat.mean for value in values]
            add(head.column.name, shown_as(what) + apart, zip(map(partial(_cell, what), values), means, strict=True))
            given = [theirs.get((row.label, head.column.name, what)) for row in table.rows]
            if any(one is not None for one in given):
                beside = [_beside(value.stat, one) for value, one in zip(values, given, strict=True)]
                add(head.column.name, "published", ((one, None) for one, _ in beside))
                add(head.column.name, "difference", ((other, None) for _, other in beside))
    if table.spec.average_rank:
        add("", "rank", ((NOTHING if row.rank is None else f"{row.rank:.2f}", row.rank) for row in table.rows))
    lines = [
        Line(
            row.group,
            tuple(printable(shown) for shown, _ in line),
            frozenset(best),
            tuple(number for _, number in line),
        )
        for row, line, best in zip(table.rows, cells, bold, strict=True)
    ]
    notes = (*table.notes, *([published.note] if published and theirs else []))
    return TextTable(
        name=table.spec.name,
        title=printable(table.spec.title),
        heads=tuple((printable(column), printable(what)) for column, what in heads),
        lines=tuple(lines),
        notes=tuple(map(printable, notes)),
    )


def terminal(text: TextTable, console: Console) -> None:
    """Print it; columns that do not fit go into further blocks below, each with the methods' names again."""
    text = _encodable(text, console.encoding)
    console.print(Text(text.title, style="bold"))
    headings = [f"{column}\n{what}" if column else f"\n{what}" for column, what in text.heads]
    widths = [
        max(len(part) for words in [heading, *(line.cells[place] for line in text.lines)] for part in words.split("\n"))
        for place, heading in enumerate(headings)
    ]
    for block in _blocks(widths, console.width):
        rich = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for place in block:
            rich.add_column(Text(headings[place]), justify="right" if place else "left", no_wrap=True)
        for line, after in zip(text.lines, [*text.lines[1:], None], strict=True):
            style = "dim" if line.group == BASE else None
            shown = [Text(line.cells[i], style="bold" if i in line.bold else "") for i in block]
            rich.add_row(*shown, style=style, end_section=after is not None and after.group != line.group)
        console.print()
        console.print(rich)
    console.print()
    for note in text.notes:
        console.print(Text(note, style="dim"))


def _encodable(text: TextTable, encoding: str) -> TextTable:
    """The table with +- for the sign, where a terminal's encoding lacks it."""
    try:
        "±".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        lines = [replace(line, cells=tuple(cell.replace("±", "+-") for cell in line.cells)) for line in text.lines]
        return replace(text, lines=tuple(lines), notes=tuple(note.replace("±", "+-") for note in text.notes))
    return text


def markdown(text: TextTable) -> str:
    """GitHub's Markdown, title and notes included; ends with a newline."""
    names = [f"{column} {what}".strip() for column, what in text.heads]
    lines = [
        f"### {markdown_text(text.title)}",
        "",
        _row(map(markdown_text, names)),
        _row(["---", *["---:"] * (len(names) - 1)]),
    ]
    group = ""
    for line in text.lines:
        if line.group not in (group, BASE, ""):
            lines.append(_row([f"*{markdown_text(line.group)}*", *[""] * (len(names) - 1)]))
        group = line.group
        lines.append(
            _row(f"**{markdown_text(c)}**" if i in line.bold else markdown_text(c) for i, c in enumerate(line.cells))
        )
    return "\n".join([*lines, "", *(f"- {markdown_text(note)}" for note in text.notes)]) + "\n"


def shown_as(what: str) -> str:
    """The heading of a column that shows a metric, LAST or one of QUANTITIES."""
    return "last epoch" if what == LAST else QUANTITIES.get(what) or heading(what)


def points(what: str, number: float) -> str:
    """A number as tables print it: scores in points, quantities in their units."""
    if what == "trainable":
        return f"{number:,.0f}"
    if what in QUANTITIES:
        return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
    return f"{100 * number:.2f}"


def _summary_cell(row: Row, what: str) -> str:
    number = row.summary.get(what)
    if number is None:
        return NOTHING
    if what == "rank":
        interval = row.rank_interval
        return f"{number:.2f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")
    return points(what, number)


def _cell(what: str, value: Value) -> str:
    diverged = f"{len(value.diverged)} diverged" if value.diverged else ""
    if value.stat is None:
        return diverged or NOTHING
    text = points(what, value.stat.mean) + ("*" if value.flattered else "")
    if what not in ("trainable", "share"):
        text += f" ± {points(what, value.stat.sd)}" if value.stat.sd is not None else ""
        text += f" ({value.stat.n})" if value.seeds else ""
    return f"{text}, {diverged}" if diverged else text


def _best(what: str, rows: Sequence[Row], values: Sequence[Value]) -> list[int]:
    """The places of the highest mean, as printed; of methods alone, and only where two can be compared."""
    known = [
        (points(what, value.stat.mean), value.stat.mean, place)
        for place, (row, value) in enumerate(zip(rows, values, strict=True))
        if value.stat is not None and row.method != BASE
    ]
    if what in LOWER_IS_BETTER or len(known) < 2:
        return []
    highest = max(known, key=lambda one: one[1])[0]
    return [place for text, _, place in known if text == highest]


def _beside(ours: Stat | None, theirs: float | None) -> tuple[str, str]:
    if theirs is None:
        return NOTHING, NOTHING
    return f"{theirs:.2f}", NOTHING if ours is None else f"{100 * ours.mean - theirs:+.2f}"


def _blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """The places of the columns of each block: the first one always, and at least one other."""
    blocks, used = [[0]], widths[0] + GAP
    for place in range(1, len(widths)):
        if len(blocks[-1]) > 1 and used + widths[place] + GAP > room:
            blocks.append([0])
            used = widths[0] + GAP
        blocks[-1].append(place)
        used += widths[place] + GAP
    return blocks


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
