"""The numbers that figures are drawn from: for each figure a list of rows, which also stand beside it as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ssm_tune.records.record import rows_path
from ssm_tune.records.schema import Record
from ssm_tune.reporting.escape import csv_text
from ssm_tune.reporting.table import BASE, Head, Table, measure, stat
from ssm_tune.utils.files import read_jsonl

SAMPLES = 40
"""Points of a learning curve; each is the mean over the steps since the point before, and over seeds."""
Folders = Mapping[int, Path]
"""A record's run folder, by the record's id()."""


@dataclass(frozen=True)
class Series:
    """A method's points in one panel, named by ``label`` as in the table. x, y and error are of one length."""

    panel: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float | None, ...]


def parameters(table: Table) -> list[Series]:
    """Leading score (points, mean and deviation over seeds) against trainable parameters, a panel a column."""
    found = []
    for head in table.heads:
        for row in table.rows:
            value = row.values[head.column.name][head.leading].stat
            trainable = {record["parameters"]["trainable"] for record in _records(table, head, row.label)}
            if value is not None and (trainable or row.method == BASE):
                sd = None if value.sd is None else 100 * value.sd
                x = float(max(trainable)) if trainable else 0.0
                found.append(Series(head.column.name, row.label, (x,), (100 * value.mean,), (sd,)))
    return found


def losses(table: Table, folders: Folders) -> list[Series]:
    """Training loss (nats a token) by optimizer step, a panel a task; what is not finite is left out.

    Raises UserError where a run's steps are missing or damaged.
    """
    found = []
    for head in table.heads:
        if len(head.column.tasks) > 1:
            continue  # losses of several tasks have no mean worth looking at
        for row in table.rows:
            runs = [read_jsonl(rows_path(folders[id(one)], "steps")) for one in _records(table, head, row.label)]
            if runs:
                x, y = _sampled(runs)
                found.append(Series(head.column.name, row.label, x, y, (None,) * len(x)))
    return found


def scores(table: Table) -> list[Series]:
    """Leading score on the selection split by optimizer step, mean and deviation over seeds, a panel a task."""
    found = []
    for head in table.heads:
        if len(head.column.tasks) > 1:
            continue
        for row in table.rows:
            at: dict[int, list[float]] = {}
            for record in _records(table, head, row.label):
                for epoch in record["metrics"]["epochs"]:
                    if record["primary_metric"] in epoch["selection"]:
                        at.setdefault(epoch["step"], []).append(100 * epoch["selection"][record["primary_metric"]])
            if at:
                stats = [stat(values) for _, values in sorted(at.items())]
                found.append(
                    Series(
                        head.column.name,
                        row.label,
                        tuple(map(float, sorted(at))),
                        tuple(one.mean for one in stats),
                        tuple(one.sd for one in stats),
                    )
                )
    return found


def costs(table: Table) -> list[Series]:
    """Panels train_seconds and memory: of each method, in every column (x, from 0), the mean over its runs."""
    found = []
    for what in ("train_seconds", "memory"):
        for row in table.rows:
            x, y = [], []
            for place, head in enumerate(table.heads):
                values = [measure(record, what) for record in _records(table, head, row.label)]
                known = [value for value in values if value is not None]
                if known:
                    x.append(float(place))
                    y.append(fmean(known))
            if x:
                found.append(Series(what, row.label, tuple(x), tuple(y), (None,) * len(x)))
    return found


def pareto(table: Table) -> list[Series]:
    """Panels trainable and train_seconds: of each row that has both its mean score (points) against it."""
    found = []
    for what in ("trainable", "train_seconds"):
        for row in table.rows:
            x, score = row.summary.get(what), row.summary.get("score")
            if x and score is not None:
                found.append(Series(what, row.label, (x,), (100 * score,), (None,)))
    return found


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, score) those that no other beats in both, by rising cost."""
    found: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or score > found[-1][1]:
            found.append((cost, score))
    return found


def as_csv(series: Sequence[Series]) -> str:
    """The rows, to six significant digits: pictures show no more."""
    rows = [
        [one.panel, one.label, f"{x:.6g}", f"{y:.6g}", None if error is None else f"{error:.6g}"]
        for one in series
        for x, y, error in zip(one.x, one.y, one.error, strict=True)
    ]
    return csv_text(("panel", "row", "x", "y", "deviation"), rows)


def _records(table: Table, head: Head, label: str) -> list[Record]:
    """The records of one row and column, diverged ones left out."""
    picked = table.picked.get((label, head.column.name), ())
    return [record for record in picked if record["status"] == "completed"]


def _sampled(runs: Sequence[list[dict[str, Any]]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    longest = max(len(run) for run in runs)
    width = max(1, -(-longest // SAMPLES))
    x, y = [], []
    for start in range(0, longest, width):
        chunk = [row["loss"] for run in runs for row in run[start : start + width] if row.get("loss") is not None]
        if chunk:
            x.append(float(min(start + width, longest)))
            y.append(fmean(chunk))
    return tuple(x), tuple(y)
