"""What a cell of the report opens: a method on one task, its scores, curves, settings, predictions and command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ssm_tune.records.repeat import command_or_reason
from ssm_tune.records.schema import Record
from ssm_tune.reporting import figure_data
from ssm_tune.reporting.examples import examples_of
from ssm_tune.reporting.figure_data import Series
from ssm_tune.reporting.grouping import settings
from ssm_tune.reporting.html.drawings import curves
from ssm_tune.reporting.html.text import plain_table, text
from ssm_tune.reporting.missing_runs import repeating
from ssm_tune.reporting.render import points, shown_as
from ssm_tune.reporting.table import Head, Table, measure
from ssm_tune.reporting.table_rows import MethodRow, word
from ssm_tune.tasks.base import Example

KnownExamples = Callable[[Record], Mapping[str, Example]]
"""Of a record the examples of its reported split by id, empty where its data are not at hand."""
NOTHING = "<span class=soft>(nothing)</span>"
MEASURES = ("score", "last", "trainable", "train_seconds", "seconds", "memory")


def cell_id(table: Table, row: int, column: int) -> str:
    """The name of a cell's template in the page."""
    return f"{table.spec.name}-{row}-{column}"


def templates(
    table: Table, folders: figure_data.Folders, series: Sequence[Series], data: KnownExamples, examples: int
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
                    f"<h3>{text(row.label)} on {text(head.title)}, {text(head.column.model)}</h3>",
                    _scores(head, records),
                    f'<div class="panels">{"".join(_curve(table, one, records[0]) for one in mine)}</div>',
                    _predictions(records, folders, data, examples),
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


def _predictions(records: Sequence[Record], folders: figure_data.Folders, data: KnownExamples, examples: int) -> str:
    """Of the first seed that has any: input, references, prediction, what the base model wrote, and the mark."""
    record = next((one for one in records if one["metrics"]["best"] is not None), None)
    if record is None or examples <= 0:
        return ""
    found = examples_of(folders[id(record)], record, data(record))[:examples]
    known, base = any(one.input is not None for one in found), any(one.base is not None for one in found)
    heads = ["example", *(["input", "reference"] if known else []), "prediction", *(["base model"] if base else [])]
    rows = []
    for one in found:
        sides = [one.input or "", "\n".join(one.references)] if known else []
        texts = [text(side) or NOTHING for side in (*sides, one.output, *([one.base or ""] if base else []))]
        kind = "" if one.right is None else f' class="{one.mark}"'
        rows.append([f"{text(one.id)}<small{kind}>{text(one.mark)}</small>", *texts])
    said = "" if known else ' <span class="soft">Inputs and references are in the data, which were not at hand.</span>'
    title = f"<h4>Predictions of seed {record['cell']['seed']}{said}</h4>"
    return title + plain_table("texts", heads, rows)


def _command(table: Table, row: MethodRow, head: Head, records: Sequence[Record]) -> str:
    seeds = sorted({record["cell"]["seed"] for record in records})
    if not table.planned:
        return f"<h4>To run it again</h4><pre>{text(command_or_reason(records[0], seeds))}</pre>"
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
