"""One row of a table against every other, task by task, on the same examples: differences with a paired bootstrap."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssm_tune.metrics.names import heading
from ssm_tune.records.record import RECORD_NAME
from ssm_tune.records.schema import Record
from ssm_tune.reporting.bootstrap import RESAMPLES
from ssm_tune.reporting.comparison import Side, aligned, compared, require_same, rows_of
from ssm_tune.reporting.escape import csv_text, markdown_text
from ssm_tune.reporting.significance import holm
from ssm_tune.reporting.table import BASE, Table

CSV_HEAD = (
    *("column", "metric", "first", "second", "first_score", "second_score"),
    *("difference", "low", "high", "p", "holm", "examples", "seeds"),
)
Folders = Mapping[int, Path]
"""A record's run folder, by the record's id()."""


@dataclass(frozen=True)
class Pair:
    """The row ``first`` minus the row ``second`` in one column, in fractions.

    seeds: those that both have. holm: p corrected for the number of pairs (significance.py).
    """

    column: str
    metric: str
    first: str
    second: str
    scores: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    examples: int
    seeds: tuple[int, ...]
    holm: float = 1.0


def pairs(table: Table, folders: Folders) -> list[Pair]:
    """Every pair of the spec's ``compare`` row and another that has completed runs of the same seeds in a column.

    Raises UserError where stored predictions are missing, damaged, or do not give the records' scores.
    """
    first = table.spec.compare
    assert first is not None
    found = []
    for head in table.heads:
        if len(head.column.tasks) > 1 or head.column.name in table.apart:
            continue  # examples of several tasks have no score in common
        for row in table.rows:
            if row.method == BASE or row.label == first:
                continue
            labels = (first, row.label)
            runs = [_by_seed(table.picked[label, head.column.name]) for label in labels]
            seeds = sorted(runs[0].keys() & runs[1].keys())
            if seeds:
                sides = [
                    _side(label, [run[seed] for seed in seeds], folders)
                    for label, run in zip(labels, runs, strict=True)
                ]
                found += _pair(head.column.name, sides[0], sides[1], tuple(seeds))
    corrected = holm([one.p for one in found])
    return [dataclasses.replace(one, holm=p) for one, p in zip(found, corrected, strict=True)]


def _by_seed(records: Sequence[Record]) -> dict[int, Record]:
    return {one["cell"]["seed"]: one for one in records if one["status"] == "completed"}


def _side(label: str, records: Sequence[Record], folders: Folders) -> Side:
    paths = tuple(folders[id(record)] / RECORD_NAME for record in records)
    rows = tuple(rows_of(path.parent, record, last=False) for path, record in zip(paths, records, strict=True))
    return Side(label, paths, tuple(records), rows)


def _pair(column: str, first: Side, second: Side, seeds: tuple[int, ...]) -> list[Pair]:
    """One pair; none where the leading metric is no function of what is stored of each example."""
    require_same(first, second)
    order, metric = [row["id"] for row in first.rows[0]], first.records[0]["primary_metric"]
    one = compared(aligned(first, order, first), aligned(second, order, first), metric)
    if one is None:
        return []
    numbers = one["difference"], one["low"], one["high"], one["p"]
    return [Pair(column, metric, first.label, second.label, (one["a"], one["b"]), *numbers, len(order), seeds)]


def tables(table: Table, folders: Folders) -> dict[str, bytes]:
    """The pairs as Markdown ("md") and CSV ("csv")."""
    found = pairs(table, folders)
    return {"md": _markdown(table, found).encode(), "csv": _csv(found).encode()}


def _markdown(table: Table, found: Sequence[Pair]) -> str:
    first = str(table.spec.compare)
    lines = [f"### {table.spec.title}: {markdown_text(first)} against the others", ""]
    lines += [
        f"| task | against | {markdown_text(first)} | other | difference | 95% interval | p | Holm |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        scores = " | ".join(f"{100 * score:.2f}" for score in one.scores)
        clear = "**" if one.low > 0 or one.high < 0 else ""
        lines.append(
            f"| {markdown_text(one.column)} {heading(one.metric)} | {markdown_text(one.second)} | {scores} | "
            f"{clear}{100 * one.difference:+.2f}{clear} | {100 * one.low:+.2f} to {100 * one.high:+.2f} | "
            f"{one.p:.4f} | {one.holm:.4f} |"
        )
    better, worse = sum(one.low > 0 for one in found), sum(one.high < 0 for one in found)
    sure = [one.difference for one in found if one.holm < 0.05]
    ahead, behind = sum(difference > 0 for difference in sure), sum(difference < 0 for difference in sure)
    lines += [
        "",
        f"- points on the reported split, means over the seeds that both have; paired bootstrap of the examples, "
        f"{RESAMPLES:,} resamples: the interval is about examples, not about seeds",
        f"- bold: the interval leaves out zero; {markdown_text(first)} is better in {better} and worse in {worse} of "
        f"{len(found)} comparisons; at p < 0.05, corrected for their number (Holm), better in {ahead} and worse in "
        f"{behind}",
    ]
    return "\n".join(lines) + "\n"


def _csv(found: Sequence[Pair]) -> str:
    rows: list[list[object]] = []
    for one in found:
        numbers = [f"{number:.6f}" for number in (*one.scores, one.difference, one.low, one.high, one.p, one.holm)]
        seeds = " ".join(map(str, one.seeds))
        rows.append([one.column, one.metric, one.first, one.second, *numbers, one.examples, seeds])
    return csv_text(CSV_HEAD, rows)
