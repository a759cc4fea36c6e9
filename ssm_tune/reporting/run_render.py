"""Tables as text: for a terminal (readable at 80 columns) and as markdown. Fractions become points here."""

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from ssm_tune.metrics.names import heading
from ssm_tune.reporting.run_tables import Row, Stat, Table

NOTHING = "-"
WIDE = 104
"""From so many columns on, a mean and its deviation fit on one line."""


def terminal(table: Table, console: Console) -> None:
    """Print a table with its title and footnotes."""
    break_cells = console.width < WIDE
    rich = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0 if break_cells else 1, 0, 0),
        header_style="bold",
    )
    for index, name in enumerate(_headings(table)):
        if index:
            rich.add_column(escape(name), justify="right", no_wrap=not break_cells)
        else:
            rich.add_column(name, overflow="fold", min_width=len("additional_scan"))
    for row in table.rows:
        style = "dim" if row.status == "frozen" else "red" if row.status == "diverged" else None
        rich.add_row(*map(escape, _cells(table, row, "\n±" if break_cells else " ± ")), style=style)
    notes = [Text(note, style="dim") for note in table.footnotes]
    console.print(Group(Text(table.title, style="bold"), Text(), rich, Text(), *notes))


def markdown(table: Table) -> str:
    """The table as GitHub's markdown, title and footnotes included; ends with a newline."""
    headings = _headings(table)
    lines = [f"### {table.title}", "", _line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
    lines += [_line(_cells(table, row, " ± ")) for row in table.rows]
    lines += ["", *(f"- {literal(note)}" for note in table.footnotes)]
    return "\n".join(lines) + "\n"


def _headings(table: Table) -> list[str]:
    return ["method", *map(heading, table.metrics), "last", "trainable", "share", "seconds", "n"]


def _cells(table: Table, row: Row, deviation: str) -> list[str]:
    mark = "*" if row.flattered else ""
    if row.status == "diverged":
        scores = ["diverged", *[NOTHING] * len(table.metrics)]
    else:
        scores = [_points(row.values.get(name), deviation, mark) for name in table.metrics]
        scores.append(_points(row.last, deviation))
    seconds = NOTHING if row.seconds is None else f"{row.seconds.mean:,.{0 if row.seconds.mean >= 10 else 1}f}"
    return [
        row.label,
        *scores,
        f"{row.trainable:,}",
        f"{100 * row.share:.3g}%",
        seconds,
        str(len(row.seeds)) if row.seeds else NOTHING,
    ]


def _points(stat: Stat | None, deviation: str, mark: str = "") -> str:
    if stat is None:
        return NOTHING
    spread = "" if stat.sd is None else f"{deviation}{100 * stat.sd:.2f}"
    return f"{100 * stat.mean:.2f}{mark}{spread}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(map(literal, cells))} |"


def literal(text: str) -> str:
    """Markdown that shows ``text`` as it is."""
    for special in "\\|*_<":
        text = text.replace(special, f"\\{special}")
    return text
