"""What a cell of the report opens: a method on one task, its scores, curves, settings, predictions and command."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ssm_tune.records.record import rows_path
from ssm_tune.records.schema import Record
from ssm_tune.reporting import figure_data
from ssm_tune.reporting.figure_data import Series
from ssm_tune.reporting.grouping import settings
from ssm_tune.reporting.html.drawings import curves
from ssm_tune.reporting.html.text import plain_table, text
from ssm_tune.reporting.missing_runs import repeating
from ssm_tune.reporting.render import points, shown_as
from ssm_tune.reporting.table import Head, Table, measure
from ssm_tune.reporting.table_rows import MethodRow, word
from ssm_tune.utils.files import read_jsonl

References = Callable[[Record], dict[str, tuple[str, ...]]]
"""Of a record the references of its reported split by id, empty where its data are not at hand."""
NOTHING = "<span class=soft>(nothing)</span>"
MEASURES = ("score", "last", "trainable", "train_seconds", "seconds", "memory")


def cell_id(table: Table, row: int, column: int) -> str:
    """The name of a cell's template in the page."""
    return f"{table.spec.name}-{row}-{column}"


def templates(
    table: Table, folders: figure_data.Folders, series: Sequence[Series], references: References, examples: int
) -> dict[str, str]:
    """The templates of every cell that has records, by ``cell_id``. series: the table's losses and scores.

    Raises UserError where a run's predictions are missing or damaged.
    """
    found = {}
    for place, row in enumerate(table.spec.rows):
        for number, head in enumerate(table.heads):
            records = table.picked.get((row.label, head.column.name), ())
            if records:
                mine = [one for one in series if (one.label, one.panel) == (row.label, head.column.name)]
                parts = [
                    f"<h3>{text(row.label)} on {text(head.column.name)}, {text(head.column.model)}</h3>",
                    _scores(head, records),
                    f'<div class="panels">{"".join(_curve(table, one, records[0]) for one in mine)}</div>',
                    _predictions(records, folders, references, examples),
                    _command(table, row, head, records),
                    _settings(records[0]),
                ]
                name = cell_id(table, place, number)
                found[name] = f'<template id="{text(name)}">{"".join(parts)}</template>'
    return found


def _scores(head: Head, records: Sequence[Record]) -> str:
    heads = ["seed", *(text(_named(what, head)) for what in MEASURES), "status"]
    rows = []
    for record in records:
        numbers = [measure(record, what) for what in MEASURES]
        shown = ["-" if one is None else points(what, one) for what, one in zip(MEASURES, numbers, strict=True)]
        rows.append([text(one) for one in (str(record["cell"]["seed"]), *shown, record["status"])])
    return plain_table("scores", heads, rows)


def _named(what: str, head: Head) -> str:
    return shown_as(head.metric or what) if what == "score" else shown_as(what)


def _curve(table: Table, one: Series, record: Record) -> str:
    is_loss = all(error is None for error in one.error) and len(one.x) > len(record["metrics"]["epochs"])
    name = "training loss, nats per token" if is_loss else f"{record['splits']['selection']} split, points"
    return curves(table, name, [one])


def _predictions(records: Sequence[Record], folders: figure_data.Folders, references: References, examples: int) -> str:
    """Of the first seed that has any, beside the references and what the base model wrote."""
    record = next((one for one in records if one["metrics"]["best"] is not None), None)
    if record is None or examples <= 0:
        return ""
    folder, known = folders[id(record)], references(record)
    tuned = _outputs(read_jsonl(rows_path(folder, "predictions")))
    frozen = rows_path(folder, "predictions-frozen")
    base = _outputs(read_jsonl(frozen)) if frozen.exists() else {}
    heads = ["example", *(["reference"] if known else []), "prediction", *(["base model"] if base else [])]
    rows = []
    for name in list(tuned)[:examples]:
        reference = ["\n".join(map(text, known.get(name, ()))) or NOTHING] if known else []
        before = [text(base.get(name, "")) or NOTHING] if base else []
        rows.append([text(name), *reference, text(tuned[name]) or NOTHING, *before])
    said = "" if known else ' <span class="soft">The references are in the data, which were not at hand.</span>'
    title = f"<h4>Predictions of seed {record['cell']['seed']}{said}</h4>"
    return title + plain_table("texts", heads, rows)


def _outputs(rows: Sequence[dict[str, object]]) -> dict[str, str]:
    return {str(row.get("id")): str(row.get("output", "")) for row in rows}


def _command(table: Table, row: MethodRow, head: Head, records: Sequence[Record]) -> str:
    seeds = sorted({record["cell"]["seed"] for record in records})
    lines = "\n".join(repeating(table.spec, row, head.column, seeds))
    where = "" if table.spec.sweep is None else " (with the folders of models and data, as the sweep's file says)"
    return f"<h4>To run it again{where}</h4><pre>{text(lines)}</pre>"


def _settings(record: Record) -> str:
    found = settings(record) | {
        "learning rate from": record["learning_rate"]["source"],
        "data": record["hashes"]["data"],
        "model": record["hashes"]["model"],
        **{name: version for name, version in record["versions"].items() if name in ("ssm-tune", "torch", "python")},
    }
    rows = [[text(name), text(word(value) if not isinstance(value, str) else value)] for name, value in found.items()]
    return f"<details><summary>Settings</summary>{plain_table('settings', (), rows)}</details>"
