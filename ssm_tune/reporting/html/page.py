"""The HTML report of tables: one file, with its styles, script and drawings inside. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssm_tune.reporting import figure_data
from ssm_tune.reporting.html.cells import KnownExamples, cell_id, templates
from ssm_tune.reporting.html.drawings import key, panels, pareto
from ssm_tune.reporting.html.text import text
from ssm_tune.reporting.render import TextTable, text_table
from ssm_tune.reporting.table import Head, Table

HERE = Path(__file__).parent
CLOSE = '<button type="button" class="close">close</button>'


def page(tables: Sequence[Table], folders: figure_data.Folders, data: KnownExamples, examples: int) -> str:
    """The whole file. folders: of each record, by its id(). examples: how many predictions a cell shows.

    Raises UserError where a run's steps or predictions are missing or damaged.
    """
    title = text(tables[0].spec.title if len(tables) == 1 else "Results")
    parts, behind = [], dict[str, str]()
    for table in tables:
        losses, scores = figure_data.losses(table, folders), figure_data.scores(table)
        cells = templates(table, folders, [*losses, *scores], data, examples)
        behind |= cells
        heading_ = f"<h2>{text(table.spec.title)}</h2>" if len(tables) > 1 else ""
        picture = figure_data.pareto(table)
        task = "" if table.planned else f' data-task="{text(table.heads[0].column.tasks[0])}"'
        parts.append(
            f'<section data-family="{text(_family(table))}"><div{task}>{heading_}{_table(table, cells)}'
            + (pareto(table, picture) if picture else "")
            + f"<h3>Training loss, nats per token, by optimizer step</h3>{key(table)}{panels(table, losses)}"
            f"<h3>Score on the selection split, points, by optimizer step</h3>{panels(table, scores)}</div></section>"
        )
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{_filters(tables)}\n"
        + "\n".join(parts)
        + f'\n</main>\n<dialog aria-label="a cell">{CLOSE}<div></div></dialog>'
        + "\n".join(["", *behind.values()])
        + f"\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _family(table: Table) -> str:
    """What the filter calls a table: its model, or models."""
    return ", ".join(dict.fromkeys(head.column.model for head in table.heads))


def _filters(tables: Sequence[Table]) -> str:
    tasks = list(dict.fromkeys(head.column.tasks[0] for table in tables for head in table.heads))
    families = list(dict.fromkeys(map(_family, tables)))
    groups = [("task", "tasks", tasks), ("family", "models", families)]
    drawn = [_boxes(name, title, values) for name, title, values in groups]
    return f'<form class="filters">{"".join(drawn)}</form>'


def _boxes(name: str, title: str, values: Sequence[str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="{name}" value="{text(value)}" checked autocomplete="off"> '
        f"{text(value)}</label>"
        for value in values
    )
    hidden = " hidden" if len(values) < 2 else ""
    return f"<fieldset{hidden}><legend>{title}</legend>{boxes}</fieldset>"


def _table(table: Table, cells: dict[str, str]) -> str:
    shown = text_table(table)
    by_name = {head.column.name: (number, head) for number, head in enumerate(table.heads)}
    columns = [None, *(by_name.get(name) for name, _ in shown.heads[1:])]  # the first one is the rows' labels
    heads = "".join(_head(column, name, what, table) for column, (name, what) in zip(columns, shown.heads, strict=True))
    labels = [row.label for row in table.spec.rows]
    rows = []
    for row, line in zip(table.rows, shown.lines, strict=True):
        place = labels.index(row.label) if row.label in labels else None
        made = []
        for at, (cell, number) in enumerate(zip(line.cells, line.numbers, strict=True)):
            column = columns[at]
            opens = cell_id(table, place, column[0]) if place is not None and column is not None else ""
            inside = _number(cell)
            if opens in cells:
                inside = f'<button type="button" data-cell="{text(opens)}">{inside}</button>'
            value = row.label if not at else "" if number is None else repr(number)
            classes = " ".join(["best"] * (at in line.bold) + _classes(column, table))
            marked = f' class="{classes}"' if classes else ""
            made.append(f'<td data-value="{text(value)}"{_task(column)}{marked}>{inside}</td>')
        rows.append(f"<tr>{''.join(made)}</tr>")
    return (
        '<div class="scroll"><table class="results"><caption>Press a heading to sort by it, and a score to see its '
        f"runs.</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{_notes(shown)}"
    )


def _number(cell: str) -> str:
    """A cell's text; deviation and seeds stand below the mean, so that ten tasks fit on a screen."""
    mean, sign, rest = cell.partition(" ± ")
    return text(mean) + (f" <small>± {text(rest)}</small>" if sign else "")


def _head(column: tuple[int, Head] | None, name: str, what: str, table: Table) -> str:
    small = f"<small>{text(what)}</small>" if name else ""
    classes = " ".join(_classes(column, table))
    marked = f' class="{classes}"' if classes else ""
    return f'<th scope="col"{_task(column)}{marked}><button type="button">{text(name or what)}{small}</button></th>'


def _task(column: tuple[int, Head] | None) -> str:
    return f' data-task="{text(column[1].column.tasks[0])}"' if column else ""


def _classes(column: tuple[int, Head] | None, table: Table) -> list[str]:
    return ["apart"] if column and column[1].column.name in table.apart else []


def _notes(shown: TextTable) -> str:
    notes = "".join(f"<li>{text(note)}</li>" for note in shown.notes)
    return f'<details class="soft"><summary>How to read it</summary><ul>{notes}</ul></details>'
