"""Records -> one table of rows of methods and columns of tasks, as a layout plans it.

A cell averages seeds and nothing else: records of one method with one set of options and settings, one data hash,
one model, one protocol. What does not belong is left out and said; what is missing is told by its command line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ssm_tune.records.schema import Record
from ssm_tune.reporting import missing_runs as gaps
from ssm_tune.reporting.run_tables import Key, Stat, settings, stat, table_key
from ssm_tune.reporting.table_spec import QUANTITIES, Column, Layout, MethodRow, word

FROZEN = "frozen"
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Value:
    """One number of the table. seeds: those averaged; diverged: those that are in no mean; stat None: nothing to show.

    flattered: the epoch was picked on the split that is reported.
    """

    stat: Stat | None
    seeds: tuple[int, ...] = ()
    diverged: tuple[int, ...] = ()
    flattered: bool = False


@dataclass(frozen=True)
class Row:
    """values: for each column's name, in the order of Head.show; shares: for each model, trainable / total.

    rank: the average one, where it can be told.
    """

    label: str
    method: str
    group: str
    options: dict[str, Any]
    values: dict[str, tuple[Value, ...]]
    shares: dict[str, float]
    rank: float | None = None


@dataclass(frozen=True)
class Head:
    """A column with what is known once the records are read. metric: what leads the task, if any record told."""

    column: Column
    show: tuple[str, ...]
    metric: str | None
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Grid:
    """A filled table.

    picked: the records behind a row's label and a column's name, one a task and seed.
    missing: command lines that would fill the gaps; notes: what must be known to read the table.
    """

    layout: Layout
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    picked: dict[tuple[str, str], tuple[Record, ...]]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not any(self.picked.values())


def fill(layout: Layout, records: Sequence[Record]) -> Grid:
    """The layout's table out of ``records``, in whatever order they come."""
    notes: list[str] = []
    chosen = {column.name: [_of_task(layout, column, task, records, notes) for task in column.tasks]
              for column in layout.columns}  # fmt: skip
    heads = tuple(_head(column, chosen[column.name]) for column in layout.columns)
    picked: dict[tuple[str, str], list[list[Record]]] = {}
    for row in layout.rows:
        for column in layout.columns:
            picked[row.label, column.name] = [_of_row(row, group, notes) for group in chosen[column.name]]
    rows = [_frozen_row(heads, chosen)]
    for row in layout.rows:
        values = {head.column.name: _values(head, picked[row.label, head.column.name]) for head in heads}
        shares = {head.column.model: part[0]["parameters"]["share"]
                  for head in heads for part in picked[row.label, head.column.name] if part}  # fmt: skip
        rows.append(Row(row.label, row.method, row.group, dict(row.changed), values, shares))
    behind = {place: tuple(record for part in parts for record in part) for place, parts in picked.items()}
    used = [record for records in behind.values() for record in records]
    if layout.average_rank:
        rows = _ranked(heads, rows)
    said = (*dict.fromkeys(notes), *_notes(layout, heads, used))
    return Grid(layout, heads, tuple(rows), behind, gaps.commands(layout, picked), said)


def _of_task(layout: Layout, column: Column, task: str, records: Iterable[Record], notes: list[str]) -> list[Record]:
    """The records of a column's task that can stand in one table; others of the task are left out, with a note."""
    wanted = (task, column.data_name(task), column.model, layout.protocol_of(column))

    def fits(record: Record) -> bool:
        cell = record["cell"]
        here = (cell["task"], cell["data"], cell["model"], cell["protocol"])
        return here == wanted and cell["seed"] in layout.seeds

    there = list(filter(fits, records))
    usable = [record for record in there if _has(record, column.overrides)]
    if others := len(there) - len(usable):
        asked = " ".join(f"{name}={word(value)}" for name, value in column.overrides.items())
        notes.append(f"{task}: {others} record(s) without the table's settings ({asked}) are left out; "
                     f"ssm-tune table --task {task} shows them")  # fmt: skip
    groups = _grouped(usable, table_key)
    if not groups:
        return []
    key = _most(groups)
    for other, left in sorted(groups.items()):
        if other != key:
            notes.append(
                f"{task}: {len(left)} record(s) on data {other.data_hash[:8]} and model {other.model_hash[:8]} by "
                f"{other.metric} are left out; most are on data {key.data_hash[:8]} and model {key.model_hash[:8]} "
                f"by {key.metric}"
            )
    return groups[key]


def _has(record: Record, overrides: Mapping[str, Any]) -> bool:
    """Whether the record's settings are those that a column or a row asks for."""
    for name, value in overrides.items():
        found: Any = record["config"]
        for part in name.lstrip("+").split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != value:
            return False
    return True


def _of_row(row: MethodRow, records: Iterable[Record], notes: list[str]) -> list[Record]:
    """The records of one method with exactly these options, one a seed; of several settings those with most seeds."""

    def fits(record: Record) -> bool:
        cell = record["cell"]
        options = {**row.options, **cell["method_options"]}
        return cell["method"] == row.method and options == dict(row.options) and _has(record, row.overrides)

    variants = _grouped(filter(fits, records), lambda record: json.dumps(settings(record)))
    if not variants:
        return []
    key = _most(variants)
    newest = _one_a_seed(variants[key])
    if len(variants) > 1:
        first, left = newest[0]["cell"], sum(len(group) for name, group in variants.items() if name != key)
        notes.append(
            f"{row.label}, {first['task']}: {left} record(s) with other settings are left out; "
            f"ssm-tune table --task {first['task']} shows them"
        )
    return newest


def _one_a_seed(records: Iterable[Record]) -> list[Record]:
    ordered = sorted(records, key=lambda record: (record["finished"], json.dumps(record["metrics"])))
    newest = {record["cell"]["seed"]: record for record in ordered}
    return [newest[seed] for seed in sorted(newest)]


def _most(groups: dict[K, list[Record]]) -> K:
    """The group with most seeds; of equal ones the newest."""

    def size(key: K) -> tuple[int, str, str]:
        group = groups[key]
        seeds = {(record["cell"]["method"], record["cell"]["seed"]) for record in group}
        return len(seeds), max(record["finished"] for record in group), str(key)

    return max(groups, key=size)


def _head(column: Column, groups: list[list[Record]]) -> Head:
    firsts = [group[0] for group in groups if group]
    metrics = list(dict.fromkeys(record["primary_metric"] for record in firsts))
    metric = metrics[0] if len(metrics) == 1 else "score" if metrics else None
    return Head(column, column.show or (metric or "score",), metric, tuple(table_key(record) for record in firsts))


def measure(record: Record, what: str) -> float | None:
    """A metric at the best epoch on the reported split ("score": the leading one), or one of QUANTITIES."""
    if what not in QUANTITIES:
        best = record["metrics"]["best"]
        name = record["primary_metric"] if what == "score" else what
        return best["report"].get(name) if best is not None else None
    seconds, memory = record["seconds"]["train"], record["peak_memory_bytes"]
    return {
        "trainable": float(record["parameters"]["trainable"]),
        "share": 100 * record["parameters"]["share"],
        "train_seconds": seconds,
        "seconds": record["seconds"]["total"],
        "tokens_per_second": record["tokens"]["train"] / seconds if seconds else None,
        "memory": None if memory is None else memory / 2**30,
    }[what]


def _values(head: Head, parts: list[list[Record]]) -> tuple[Value, ...]:
    """A row's numbers in one column; of several tasks the mean over tasks of each seed that has them all."""
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
        found.append(Value(stat(means) if means else None, tuple(whole), bad, flattered and what not in QUANTITIES))
    return tuple(found)


def _frozen_row(heads: Sequence[Head], chosen: dict[str, list[list[Record]]]) -> Row:
    """The untrained model's scores, where the records agree on them."""
    values = {}
    for head in heads:
        row = []
        for what in head.show:
            scores = [_frozen(group, what) for group in chosen[head.column.name]]
            known = [score for score in scores if score is not None]
            whole = what not in QUANTITIES and len(known) == len(scores)
            row.append(Value(Stat(sum(known) / len(known), None, 1) if whole else None))
        values[head.column.name] = tuple(row)
    return Row("frozen model", FROZEN, FROZEN, {}, values, {head.column.model: 0.0 for head in heads})


def _frozen(records: Iterable[Record], what: str) -> float | None:
    found = set()
    for record in records:
        frozen = record["metrics"]["frozen"]
        name = record["primary_metric"] if what == "score" else what
        if frozen is not None and name in frozen["values"]:
            found.add(round(frozen["values"][name], 9))
    return found.pop() if len(found) == 1 else None


def _ranked(heads: Sequence[Head], rows: list[Row]) -> list[Row]:
    """Rows with their average rank over the columns' leading numbers: 1 is best, equal scores share a rank.

    Told only of rows that have a number in every column, among which the ranks are taken; never of the frozen model.
    """

    def leading(row: Row, head: Head) -> float | None:
        place = head.show.index(head.metric) if head.metric in head.show else 0
        value = row.values[head.column.name][place].stat
        return None if value is None else value.mean

    whole = {row.label: [leading(row, head) for head in heads] for row in rows if row.method != FROZEN}
    whole = {label: scores for label, scores in whole.items() if None not in scores}
    ranks: dict[str, float] = {}
    for label, scores in whole.items():
        places = []
        for index, score in enumerate(scores):
            others = [other[index] for other in whole.values()]
            better, equal = sum(o > score for o in others), sum(o == score for o in others)  # type: ignore[operator]
            places.append(better + (equal + 1) / 2)
        ranks[label] = sum(places) / len(places)
    return [dataclasses.replace(row, rank=ranks.get(row.label)) for row in rows]


def _notes(layout: Layout, heads: Sequence[Head], used: Sequence[Record]) -> tuple[str, ...]:
    notes = ["scores are points (x100) on the reported split at the best epoch by the selection split: "
             "mean ± sample standard deviation (number of seeds)"]  # fmt: skip
    protocols = sorted({layout.protocol_of(head.column) for head in heads})
    notes.append(f"protocol: {' and '.join(protocols)}; seeds {', '.join(map(str, layout.seeds))}")
    if layout.average_rank:
        notes.append("rank: the average over the columns, of the methods that have a score in every one; 1 is best")
    if any(record["splits"]["selected_on_report"] for record in used):
        notes.append("* the epoch was picked on the very split that is reported, which flatters the score")
    if any(record["status"] == "diverged" for record in used):
        notes.append("diverged: the loss was not finite or far above guessing; such runs are in no mean")
    timed = any(what in QUANTITIES for head in heads for what in head.show)
    machines = sorted({_machine(record) for record in used})
    if timed and machines:
        notes.append(f"times and memory: {'; '.join(machines)}" + (" (not one machine)" if len(machines) > 1 else ""))
    if any(record["backend"]["device"] == "cpu" for record in used) and timed:
        notes.append("memory on a CPU is the most that the whole process held, earlier cells of a sweep included")
    return tuple(notes)


def _machine(record: Record) -> str:
    gpu = record["hardware"].get("gpu")
    return str(gpu["name"]) if gpu else f"{record['hardware'].get('cpu')}, {record['hardware'].get('cores')} cores"


def _grouped(values: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    groups: dict[K, list[V]] = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return groups
