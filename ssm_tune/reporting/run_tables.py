"""Records -> tables without a plan: one for each task, data, model and protocol, with a row for each kind of run.

Where a method has several rows in one table, their labels name the settings that tell them apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ssm_tune.metrics.names import heading
from ssm_tune.records.schema import Frozen, Record
from ssm_tune.reporting.grouping import Key, flat, grouped, newest_per_seed, settings, table_key, variant
from ssm_tune.reporting.table import BASE, DIVERGED, FLATTERED, Head, Row, Stat, Table, Value, dirty_note, row_values
from ssm_tune.reporting.table_rows import MethodRow
from ssm_tune.reporting.table_spec import LAST, Column, TableSpec

SHORT_NAMES = {"train.learning_rate": "lr"}
BESIDE = (LAST, "trainable", "share", "seconds")
"""What these tables show beside the metrics that a task leads with."""


def tables_from_records(records: Iterable[Record]) -> list[Table]:
    """One table for each key, in order of keys."""
    return [_table(key, group) for key, group in sorted(grouped(records, table_key).items())]


def _table(key: Key, records: list[Record]) -> Table:
    data, model = f"{key.data} ({key.data_hash[:8]})", f"{key.model} ({key.model_hash[:8]})"
    column = Column("", (key.task,), key.model, key.data, (*records[0]["headline"], *BESIDE))
    head = Head(column, column.show, key.metric, (key,))
    rows, plans, picked = _base_rows(head, records), [], {}
    for method, of_method in sorted(grouped(records, lambda record: record["cell"]["method"]).items()):
        variants = list(grouped(of_method, variant).values())
        labels = _labels([settings(runs[0]) for runs in variants])
        for runs, label in zip(variants, labels, strict=True):
            newest = newest_per_seed(runs)
            options = newest[0]["cell"]["method_options"]
            plans.append(MethodRow(label, method, "", (options,), options))
            shares = {key.model: newest[0]["parameters"]["share"]}
            rows.append(Row(label, method, "", options, {"": row_values(head, [newest])}, shares))
            picked[label, ""] = tuple(newest)
    spec = TableSpec(
        name=key.task,
        title=f"{key.task} on {data}, {model}, {key.protocol} protocol"
        + (f", no result: at most {key.limit} examples of each split (splits.limit)" if key.limit else ""),
        protocol=key.protocol,
        seeds=tuple(sorted({record["cell"]["seed"] for record in records})),
        columns=(column,),
        rows=tuple(plans),
        average_rank=False,
    )
    return Table(spec, (head,), tuple(rows), picked, (), _notes(records))


def _base_rows(head: Head, records: Sequence[Record]) -> list[Row]:
    """One row; several only where runs disagree about the base model's score (other decoding, dtype or device)."""
    scored = [(record, base) for record in records if (base := record["metrics"]["frozen"]) is not None]
    # older records lack some metrics, over which there is nothing to disagree
    common = set.intersection(*(set(base["values"]) for _, base in scored)) if scored else set()

    def printed(one: tuple[Record, Frozen]) -> str:
        _, base = one
        return json.dumps([base["split"], {name: round(base["values"][name], 6) for name in sorted(common)}])

    groups = list(grouped(scored, printed).values())
    labels = _labels([{"method": BASE} | _decoding(group[0][0]) for group in groups])
    rows = []
    for group, label in zip(groups, labels, strict=True):
        # a score that came from the cache took no time; the run that made it did
        seconds = max((record["seconds"]["frozen"] or 0.0 for record, _ in group), default=0.0)
        known = {name: value for _, base in reversed(group) for name, value in base["values"].items()}
        numbers = {**known, "trainable": 0.0, "share": 0.0} | ({"seconds": seconds} if seconds else {})
        values = tuple(Value(Stat(numbers[what], None, 1) if what in numbers else None) for what in head.show)
        rows.append(Row(label, BASE, BASE, {}, {"": values}, {head.column.model: 0.0}))
    return rows


def _decoding(record: Record) -> dict[str, Any]:
    keep = {key: value for key, value in settings(record).items() if key.startswith(("decode.", "report"))}
    return keep | {key: record["backend"][key] for key in ("dtype", "device", "scan")}


def _notes(records: list[Record]) -> tuple[str, ...]:
    primary = heading(records[0]["primary_metric"])
    splits = {(record["splits"]["selection"], record["splits"]["report"]) for record in records}
    notes = [
        f"scores are points (x100) on {report}, epoch picked on {selection} by {primary}: mean ± sample standard "
        f"deviation (number of seeds); last epoch: {primary} after the last epoch"
        for selection, report in sorted(splits)
    ]
    if any(record["splits"]["selected_on_report"] for record in records):
        notes.append(FLATTERED)
    if any(record["status"] == "diverged" for record in records):
        notes.append(DIVERGED)
    dtypes = {record["backend"]["adapter_dtype"] for record in records}
    if len(dtypes) > 1:
        notes.append(f"adapters were trained in {' and in '.join(sorted(dtypes))}: compare such rows with care")
    repeated = sum(len(runs) - len(newest_per_seed(runs)) for runs in grouped(records, variant).values())
    if repeated:
        notes.append(f"{repeated} record(s) repeat a seed of the same settings; the newest one counts")
    for method, group in sorted(grouped(records, lambda record: record["cell"]["method"]).items()):
        options = _spelled(_common([flat(record["cell"]["method_options"]) for record in group]))
        if options:
            notes.append(f"{method}: {options}")
    notes += dirty_note(records)
    signatures = {f"{name}: {text}" for record in records for name, text in record["signatures"].items()}
    return (*notes, *sorted(signatures))


def _labels(variants: list[dict[str, Any]]) -> list[str]:
    """ "method", with the settings in which a method's rows differ; "-" where one of them lacks a setting."""
    names = dict.fromkeys(name for one in variants for name in one)
    differing = [name for name in names if len({json.dumps(one.get(name)) for one in variants}) > 1]
    return [
        f"{one['method']} {_spelled({name: one.get(name) for name in differing}, absent='-')}".strip()
        for one in variants
    ]


def _common(variants: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: value
        for name, value in variants[0].items()
        if all(name in other and other[name] == value for other in variants)
    }


def _spelled(options: dict[str, Any], absent: str | None = None) -> str:
    """key=value pairs by their short names; unset ones are left out unless ``absent`` stands for them."""
    words = []
    for name, value in sorted(options.items()):
        if value is None and absent is None:
            continue
        text = absent if value is None else value if isinstance(value, str) else json.dumps(value)
        words.append(f"{SHORT_NAMES.get(name, name.removeprefix('train.').removeprefix('decode.'))}={text}")
    return " ".join(words)
