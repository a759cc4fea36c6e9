"""Records -> a table as conf/table plans it.

A number averages seeds and nothing else: records of one method with one set of options and settings, one data hash,
one model, one protocol. Records that do not belong are left out, with a note; for what is missing there is the command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ssm_tune.records.schema import Record
from ssm_tune.reporting.grouping import grouped, limit_of, newest_per_seed, table_key, variant
from ssm_tune.reporting.missing_runs import commands
from ssm_tune.reporting.summary_columns import Picked, ranked, summarised, summary_notes
from ssm_tune.reporting.table import (
    BASE,
    DIVERGED,
    FLATTERED,
    Head,
    Row,
    Stat,
    Table,
    Value,
    base_score,
    dirty_note,
    row_values,
)
from ssm_tune.reporting.table_rows import MethodRow, word
from ssm_tune.reporting.table_spec import QUANTITIES, Column, TableSpec
from ssm_tune.reporting.unlearned import LEVEL, Folders, is_unlearned
from ssm_tune.utils.errors import UserError

K = TypeVar("K")


def fill(spec: TableSpec, records: Sequence[Record], folders: Folders | None = None) -> Table:
    """The spec's table out of ``records``, in whatever order they come. folders: where they lie, by their id(), which
    takes ``set_apart`` to say anything.

    Raises UserError where a table with a summary finds records of two checkpoints under its model's name, or stored
    predictions are missing or damaged.
    """
    notes: list[str] = []
    if spec.summary:
        _require_one_checkpoint(spec, records)
    chosen = {
        column.name: [_of_task(spec, column, task, records, notes) for task in column.tasks] for column in spec.columns
    }
    heads = tuple(_head(column, chosen[column.name]) for column in spec.columns)
    picked: dict[tuple[str, str], list[list[Record]]] = {}
    for row in spec.rows:
        for column in spec.columns:
            picked[row.label, column.name] = [_of_row(row, group, notes) for group in chosen[column.name]]
    rows = [_base_row(heads, chosen), *(_method_row(row, heads, picked) for row in spec.rows)]
    apart = _apart(spec, heads, picked, folders) if spec.set_apart and folders is not None else ()
    counted = [head for head in heads if head.column.name not in apart]
    if spec.average_rank or "rank" in spec.summary:
        rows = ranked(rows, counted, intervals="rank" in spec.summary)
    rows = summarised(rows, counted, picked, spec.summary)
    behind = {place: tuple(record for part in parts for record in part) for place, parts in picked.items()}
    used = [record for records in behind.values() for record in records]
    said = (*dict.fromkeys(notes), *_notes(spec, heads, used, apart))
    return Table(spec, heads, tuple(rows), behind, commands(spec, picked), said, apart)


def _require_one_checkpoint(spec: TableSpec, records: Iterable[Record]) -> None:
    models, hashes = {column.model for column in spec.columns}, dict[str, str]()
    for record in records:
        name, found = record["cell"]["model"], record["hashes"]["model"]
        if name in models and hashes.setdefault(name, found) != found:
            raise UserError(
                f"the results hold runs of two checkpoints under the name {name}, {hashes[name][:12]} and "
                f"{found[:12]}, which no table ranks together: keep them apart (--results DIR), or rename one"
            )


def _apart(spec: TableSpec, heads: Sequence[Head], picked: Picked, folders: Folders) -> tuple[str, ...]:
    """The columns of one task in which no method beats an answer without learning."""
    found = []
    for head in heads:
        parts = [picked[row.label, head.column.name] for row in spec.rows]
        done = [[one for one in part[0] if one["status"] == "completed"] for part in parts if len(part) == 1]
        known = [records for records in done if records]
        if known and is_unlearned(known, folders):
            found.append(head.column.name)
    return tuple(found)


def _of_task(spec: TableSpec, column: Column, task: str, records: Iterable[Record], notes: list[str]) -> list[Record]:
    """The records of a column's task that can stand in one table; others of the task are left out, with a note."""
    wanted = (task, column.data_name(task), column.model, spec.protocol_of(column))

    def fits(record: Record) -> bool:
        run = record["cell"]
        here = (run["task"], run["data"], run["model"], run["protocol"])
        return here == wanted and run["seed"] in spec.seeds

    there = list(filter(fits, records))
    if smoke := [record for record in there if limit_of(record)]:
        notes.append(
            f"{task}: {len(smoke)} record(s) with splits.limit are no results and are left out; "
            f"ssm-tune table --task {task} shows them"
        )
        there = [record for record in there if not limit_of(record)]
    usable = [record for record in there if _has(record, column.overrides)]
    if others := len(there) - len(usable):
        asked = " ".join(f"{name}={word(value)}" for name, value in column.overrides.items())
        notes.append(
            f"{task}: {others} record(s) without the table's settings ({asked}) are left out; "
            f"ssm-tune table --task {task} shows them"
        )
    groups = grouped(usable, table_key)
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
        run = record["cell"]
        fitting = any({**options, **run["method_options"]} == options for options in row.options)
        return run["method"] == row.method and fitting and _has(record, row.overrides)

    variants = grouped(filter(fits, records), variant)
    if not variants:
        return []
    key = _most(variants)
    newest = newest_per_seed(variants[key])
    if len(variants) > 1:
        first, left = newest[0]["cell"], sum(len(group) for name, group in variants.items() if name != key)
        notes.append(
            f"{row.label}, {first['task']}: {left} record(s) with other settings are left out; "
            f"ssm-tune table --task {first['task']} shows them"
        )
    return newest


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


def _method_row(
    row: MethodRow, heads: Sequence[Head], picked: Mapping[tuple[str, str], Sequence[Sequence[Record]]]
) -> Row:
    values: dict[str, tuple[Value, ...]] = {}
    shares: dict[str, float] = {}
    for head in heads:
        parts = picked[row.label, head.column.name]
        values[head.column.name] = row_values(head, parts)
        for part in parts:
            if part:
                shares[head.column.model] = part[0]["parameters"]["share"]
    return Row(row.label, row.method, row.group, dict(row.changed), values, shares)


def _base_row(heads: Sequence[Head], chosen: dict[str, list[list[Record]]]) -> Row:
    """The scores before any training."""
    values = {}
    for head in heads:
        row = []
        for what in head.show:
            scores = [base_score(group, what) for group in chosen[head.column.name]]
            known = [score for score in scores if score is not None]
            whole = what not in QUANTITIES and len(known) == len(scores)
            row.append(Value(Stat(sum(known) / len(known), None, 1) if whole else None))
        values[head.column.name] = tuple(row)
    return Row(BASE, BASE, BASE, {}, values, {head.column.model: 0.0 for head in heads})


def _notes(spec: TableSpec, heads: Sequence[Head], used: Sequence[Record], apart: Sequence[str]) -> tuple[str, ...]:
    notes = [
        "scores are points (x100) on the reported split at the best epoch by the selection split: "
        "mean ± sample standard deviation (number of seeds)"
    ]
    protocols = sorted({spec.protocol_of(head.column) for head in heads})
    notes.append(f"protocol: {' and '.join(protocols)}; seeds {', '.join(map(str, spec.seeds))}")
    if spec.average_rank:
        notes.append("rank: the average over the columns, of the methods that have a score in every one; 1 is best")
    if spec.summary:
        notes += summary_notes(spec)
    if apart:
        notes.append(
            f"apart, and in no score, rank, cost or comparison: {', '.join(apart)}; no method beats always giving the "
            f"commonest label (of a text task: the base model) at p < {LEVEL}, corrected for the number of methods"
        )
    if any(record["splits"]["selected_on_report"] for record in used):
        notes.append(FLATTERED)
    if any(record["status"] == "diverged" for record in used):
        notes.append(DIVERGED)
    timed = any(what in QUANTITIES for what in (*spec.summary, *(what for head in heads for what in head.show)))
    machines = sorted({_machine(record) for record in used})
    if timed and machines:
        notes.append(f"times and memory: {'; '.join(machines)}" + (" (not one machine)" if len(machines) > 1 else ""))
    if any(record["backend"]["device"] == "cpu" for record in used) and timed:
        notes.append("memory on a CPU is the most that the whole process held, earlier runs of a sweep included")
    return (*notes, *dirty_note(used))


def _machine(record: Record) -> str:
    gpu = record["hardware"].get("gpu")
    return str(gpu["name"]) if gpu else f"{record['hardware'].get('cpu')}, {record['hardware'].get('cores')} cores"
