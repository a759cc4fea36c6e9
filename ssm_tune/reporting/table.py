"""A table of results: rows of methods, columns of tasks, each number a mean over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssm_tune.records.schema import Record
from ssm_tune.reporting.grouping import Key
from ssm_tune.reporting.search_cost import search_cost
from ssm_tune.reporting.table_spec import LAST, QUANTITIES, Column, TableSpec

BASE = "base model"
"""The method and the group of rows that show the model before any training."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
"""Of one trained number, as an adapter's file holds it."""
EQUAL = 1e-9
"""Scores (fractions) that differ by no more are equal: means are rounded in their last digits."""
FLATTERED = "* the epoch was picked on the very split that is reported, which flatters the score"
DIVERGED = "diverged: the loss was not finite or far above guessing; such runs are in no mean"


@dataclass(frozen=True)
class Stat:
    """Mean over seeds; sample standard deviation (n - 1), None for a single seed."""

    mean: float
    sd: float | None
    n: int


def stat(values: Sequence[float]) -> Stat:
    """Mean and sample standard deviation; the order of the values does not matter."""
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Value:
    """One number of the table. seeds: those averaged, each: their numbers; diverged: those that are in no mean; stat
    None: nothing to show.

    flattered: the epoch was picked on the split that is reported.
    """

    stat: Stat | None
    seeds: tuple[int, ...] = ()
    diverged: tuple[int, ...] = ()
    flattered: bool = False
    each: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """values: for each column's name, in the order of Head.show; shares: for each model, trainable / total.

    rank: the average one, where there is one, and rank_interval where drawn tasks and seeds put 95% of it. summary: of
    what the table shows once a row, the numbers that are known.
    """

    label: str
    method: str
    group: str
    options: dict[str, Any]
    values: dict[str, tuple[Value, ...]]
    shares: dict[str, float]
    rank: float | None = None
    rank_interval: tuple[float, float] | None = None
    summary: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """A column with what is known once the records are read. metric: what leads the task, if there is any record."""

    column: Column
    show: tuple[str, ...]
    metric: str | None
    keys: tuple[Key, ...]

    @property
    def title(self) -> str:
        """The column's name; the task's where the only column has none."""
        return self.column.name or self.column.tasks[0]

    @property
    def leading(self) -> int:
        """The place in ``show`` of the number that ranks and figures take."""
        return self.show.index(self.metric) if self.metric in self.show else 0


@dataclass(frozen=True)
class Table:
    """A filled table.

    picked: the records behind a row's label and a column's name, one a task and seed.
    missing: command lines that would fill the gaps; notes: what must be known to read the table; apart: names of the
    columns that count in no rank and no summary.
    """

    spec: TableSpec
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    picked: dict[tuple[str, str], tuple[Record, ...]]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    apart: tuple[str, ...] = ()

    @property
    def planned(self) -> bool:
        """Whether conf/table plans it; a table of whatever records there are has one column, which has no name."""
        return self.heads[0].column.name != ""

    @property
    def empty(self) -> bool:
        return not any(self.picked.values())


def measure(record: Record, what: str) -> float | None:
    """One number of a record.

    what: a metric at the best epoch on the reported split; "score": the leading one; LAST: the leading one after the
    last epoch; or one of QUANTITIES.
    """
    if what not in QUANTITIES:
        chosen = record["metrics"]["last" if what == LAST else "best"]
        name = record["primary_metric"] if what in ("score", LAST) else what
        return chosen["report"].get(name) if chosen is not None else None
    seconds, memory = record["seconds"]["train"], record["peak_memory_bytes"]
    cost = search_cost(record) if what.startswith("search") else None
    return {
        "trainable": float(record["parameters"]["trainable"]),
        "share": 100 * record["parameters"]["share"],
        "train_seconds": seconds,
        "seconds": record["seconds"]["total"],
        "tokens_per_second": record["tokens"]["train"] / seconds if seconds else None,
        "memory": None if memory is None else memory / 2**30,
        "adapter": record["parameters"]["trainable"] * BYTES.get(record["backend"]["adapter_dtype"], 4) / 1e6,
        "generated_per_second": _generated_per_second(record),
        "search_trials": cost[0] if cost else None,
        "search_seconds": cost[1] if cost else None,
    }[what]


def _generated_per_second(record: Record) -> float | None:
    """Tokens that the tuned model wrote by second of its evaluations, scoring included; None where it writes none."""
    tokens, seconds = record["tokens"]["generated"], record["seconds"]["evaluate"]
    return tokens / seconds if tokens and seconds else None


def dirty_note(records: Sequence[Record]) -> list[str]:
    """What to say of records whose source was not that of any commit."""
    dirty = sum(bool(record["git"] and record["git"].get("dirty")) for record in records)
    if not dirty:
        return []
    return [f"{dirty} of {len(records)} runs had changes in the source that no commit holds (git.dirty in the record)"]


def row_values(head: Head, parts: Sequence[Sequence[Record]]) -> tuple[Value, ...]:
    """A row's numbers in one column; of several tasks the mean over tasks of each seed that has them all.

    parts: the records of each of the column's tasks.
    """
    done = [{one["cell"]["seed"]: one for one in part if one["status"] == "completed"} for part in parts]
    bad = tuple(sorted({one["cell"]["seed"] for part in parts for one in part if one["status"] != "completed"}))
    seeds = sorted(set.intersection(*map(set, done)))
    flattered = any(one["splits"]["selected_on_report"] for part in parts for one in part)
    found = []
    for what in head.show:
        name = what if len(parts) == 1 else "score" if what == head.metric else what
        each = {seed: [measure(part[seed], name) for part in done] for seed in seeds}
        whole = {seed: [x for x in xs if x is not None] for seed, xs in each.items() if None not in xs}
        means = [sum(xs) / len(xs) for xs in whole.values()]
        starred = flattered and what not in (LAST, *QUANTITIES)
        found.append(Value(stat(means) if means else None, tuple(whole), bad, starred, tuple(means)))
    return tuple(found)


def base_score(records: Iterable[Record], what: str) -> float | None:
    """The model's score before any training, where the records agree on it."""
    found = []
    for record in records:
        base = record["metrics"]["frozen"]
        name = record["primary_metric"] if what == "score" else what
        if base is not None and name in base["values"]:
            found.append(base["values"][name])
    return found[0] if found and max(found) - min(found) <= EQUAL else None


def average_ranks(scores: Sequence[Sequence[float]]) -> list[float]:
    """Of each row its average rank over the columns: 1 is best, equal scores share the mean of their ranks.

    scores: by row and column, fractions, the highest best.
    """
    ranks: list[list[float]] = [[] for _ in scores]
    for column in zip(*scores, strict=True):
        order = sorted(range(len(column)), key=lambda row: -column[row])
        first = 0
        while first < len(order):
            end = first + 1
            while end < len(order) and column[order[end - 1]] - column[order[end]] <= EQUAL:
                end += 1
            for row in order[first:end]:
                ranks[row].append((first + 1 + end) / 2)
            first = end
    return [statistics.fmean(row) for row in ranks]
