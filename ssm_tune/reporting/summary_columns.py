"""What stands once a row, over the columns that count: mean score, rank and how sure it is, size, time, search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean

from ssm_tune.records.schema import Record
from ssm_tune.reporting.significance import rank_intervals
from ssm_tune.reporting.table import BASE, Head, Row, average_ranks, measure
from ssm_tune.reporting.table_spec import TableSpec

Picked = Mapping[tuple[str, str], Sequence[Sequence[Record]]]
"""For a row's label and a column's name, the records of each of the column's tasks."""
SIZES = ("trainable", "share", "adapter")
SEARCH = ("search_trials", "search_seconds")


def ranked(rows: Sequence[Row], heads: Sequence[Head], intervals: bool) -> list[Row]:
    """The rows with their average rank over the columns' leading numbers, and with its interval if asked.

    Only rows that have a number in every column are ranked, among each other; never the base model.
    """
    whole: dict[str, list[tuple[float, tuple[float, ...]]]] = {}
    for row in rows:
        values = [row.values[head.column.name][head.leading] for head in heads]
        known = [(value.stat.mean, value.each) for value in values if value.stat is not None]
        if row.method != BASE and heads and len(known) == len(heads):
            whole[row.label] = known
    ranks = dict(zip(whole, average_ranks([[mean for mean, _ in row] for row in whole.values()]), strict=True))
    spread: dict[str, tuple[float, float]] = {}
    if intervals and whole:
        spread = dict(zip(whole, rank_intervals([[each for _, each in row] for row in whole.values()]), strict=True))
    return [dataclasses.replace(row, rank=ranks.get(row.label), rank_interval=spread.get(row.label)) for row in rows]


def summarised(rows: Sequence[Row], heads: Sequence[Head], picked: Picked, asked: Sequence[str]) -> list[Row]:
    """The methods' rows with the numbers that are asked for, over the columns of ``heads``."""
    return [
        row
        if row.method == BASE
        else dataclasses.replace(row, summary={what: _number(row, heads, picked, what) for what in asked})
        for row in rows
    ]


def _number(row: Row, heads: Sequence[Head], picked: Picked, what: str) -> float | None:
    """score: the mean of the columns' means, where all have one; of sizes, seconds and rates the mean of those that are
    known, of memory the largest; of a search the sum over the columns, where all are known."""
    if what == "rank":
        return row.rank
    if what == "score":
        means = [row.values[head.column.name][head.leading].stat for head in heads]
        known = [one.mean for one in means if one is not None]
        return fmean(known) if heads and len(known) == len(heads) else None
    whole = all(row.values[head.column.name][head.leading].stat is not None for head in heads)
    if not whole and what not in SIZES:  # a mean over other columns than the other rows'
        return None
    columns = [_of_column(picked.get((row.label, head.column.name), ()), what) for head in heads]
    numbers = [number for number in columns if number is not None]
    if not numbers or (what in SEARCH and len(numbers) < len(columns)):
        return None
    return sum(numbers) if what in SEARCH else max(numbers) if what == "memory" else fmean(numbers)


def _of_column(parts: Sequence[Sequence[Record]], what: str) -> float | None:
    """One number of a column: of each task the mean over seeds, of a search, which all seeds share, that of one."""
    found = []
    for part in parts:
        done = [record for record in part if record["status"] == "completed"]
        asked = done[:1] if what in SEARCH else done
        numbers = [number for record in asked if (number := measure(record, what)) is not None]
        if not numbers:
            return None
        found.append(fmean(numbers))
    return None if not found else sum(found) if what in SEARCH else fmean(found)


def summary_notes(spec: TableSpec) -> list[str]:
    """How the numbers of a summary are to be read."""
    notes = []
    if "rank" in spec.summary:
        notes.append(
            "rank: the average over the columns, of the methods that have a score in every one, 1 is best; in brackets "
            "95% of the ranks when columns and seeds are drawn again, with replacement"
        )
    if "score" in spec.summary:
        notes.append("mean score: over the columns, whose metrics differ: it orders methods, and measures nothing else")
    if {"train_seconds", "generated_per_second", "memory"} & set(spec.summary):
        notes.append(
            "training, generated tokens a second (scoring included): means over the columns; memory: the largest; runs "
            "that shared a GPU slowed each other down"
        )
    if {"search_trials", "search_seconds"} & set(spec.summary):
        notes.append(
            "search: what it took to choose the learning rates, all columns together, by the tuned file's account"
        )
    return notes
