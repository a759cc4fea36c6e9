"""Records -> tables: one for each task, data, model and protocol; seeds averaged, nothing else.

Two records are averaged only if they differ in nothing but the seed: same method and options, training and
decoding settings, learning rate, dtypes, data, weights and metric signature. Where two rows of a method stand
in one table, their labels name the settings that tell them apart. Files hold fractions; tables print points.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ssm_tune.metrics.names import heading
from ssm_tune.records.run_id import EXECUTION
from ssm_tune.records.schema import Chosen, Record

SHORT_NAMES = {"train.learning_rate": "lr"}
K = TypeVar("K")


class Key(NamedTuple):
    """What the rows of one table share. Hashes are sha256."""

    task: str
    data: str
    data_hash: str
    model: str
    model_hash: str
    protocol: str
    metric: str


@dataclass(frozen=True)
class Stat:
    """Mean over seeds; sample standard deviation (n - 1), None for a single seed."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One line. status: "frozen", "completed" or "diverged" (whose values are never averaged nor shown)."""

    label: str
    method: str
    status: str
    values: dict[str, Stat]
    """at the best epoch by the selection split, on the report split; fractions"""
    last: Stat | None
    """the primary metric after the last epoch, on the report split; fraction"""
    trainable: int
    share: float
    """trainable / total parameters"""
    seconds: Stat | None
    """wall time of a whole run; of the frozen model's scoring in its row"""
    seeds: tuple[int, ...]
    flattered: bool = False
    """the epoch was chosen on the split that is reported"""


@dataclass(frozen=True)
class Table:
    """Rows, frozen model first, and what must be known to read them."""

    key: Key
    metrics: tuple[str, ...]
    primary: str
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]

    @property
    def title(self) -> str:
        key = self.key
        data, model = f"{key.data} ({key.data_hash[:8]})", f"{key.model} ({key.model_hash[:8]})"
        return f"{key.task} on {data}, {model}, {key.protocol} protocol"


def table_key(record: Record) -> Key:
    """The table that a record belongs to."""
    cell, hashes = record["cell"], record["hashes"]
    return Key(
        cell["task"], cell["data"], hashes["data"], cell["model"], hashes["model"], cell["protocol"],
        record["primary_metric"],
    )  # fmt: skip


def tables_from_records(records: Iterable[Record]) -> list[Table]:
    """One table for each key, in order of keys."""
    return [_table(key, group) for key, group in sorted(_grouped(records, table_key).items())]


def rows_for_table(records: Sequence[Record]) -> list[Row]:
    """The rows of one table: frozen first, then by method.

    Raises:
        ValueError: the records belong to several tables.
    """
    if len({table_key(record) for record in records}) > 1:
        raise ValueError("these records belong to several tables")
    rows = _frozen_rows(records)
    for _, of_method in sorted(_grouped(records, lambda record: record["cell"]["method"]).items()):
        variants = list(_grouped(of_method, lambda record: json.dumps(settings(record))).values())
        labels = _labels([settings(variant[0]) for variant in variants])
        for variant, label in zip(variants, labels, strict=True):
            rows += _method_rows(_newest_per_seed(variant), label)
    return rows


def settings(record: Record) -> dict[str, Any]:
    """Everything but the seed that moves a record's scores, flat; what moves only speed or memory is out."""
    config, backend = record["config"], record["backend"]
    parts = {name: config.get(name) for name in ("train", "decode", "splits")}
    flat = {"method": record["cell"]["method"]} | _flat(record["cell"]["method_options"])
    flat |= {f"{name}.{key}": value for name, part in parts.items() for key, value in _flat(part or {}).items()}
    for section, names in EXECUTION.items():
        for name in names:
            flat.pop(f"{section}.{name}", None)
    # as resolved, where the configuration may say auto or nothing
    flat["train.learning_rate"] = record["learning_rate"]["value"]
    flat["train.adapter_dtype"] = backend["adapter_dtype"]
    flat["dtype"] = backend["dtype"]
    flat |= {f"{role}_split": record["splits"][role] for role in ("selection", "report")}
    flat |= {f"signature.{name}": text for name, text in record["signatures"].items()}
    return dict(sorted(flat.items()))


def _table(key: Key, records: list[Record]) -> Table:
    primary = records[0]["primary_metric"]
    return Table(key, tuple(records[0]["headline"]), primary, tuple(rows_for_table(records)), _footnotes(records))


def _frozen_rows(records: Sequence[Record]) -> list[Row]:
    """One row; several only where runs disagree about the frozen score (other decoding, dtype or device)."""
    scored = [record for record in records if record["metrics"]["frozen"] is not None]

    def printed(record: Record) -> str:
        frozen = record["metrics"]["frozen"]
        assert frozen is not None
        return json.dumps([frozen["split"], {name: round(value, 6) for name, value in frozen["values"].items()}])

    groups = list(_grouped(scored, printed).values())
    labels = _labels([{"method": "frozen"} | _decoding(group[0]) for group in groups])
    rows = []
    for group, label in zip(groups, labels, strict=True):
        frozen = group[0]["metrics"]["frozen"]
        assert frozen is not None
        values = {name: Stat(value, None, 1) for name, value in frozen["values"].items()}
        # a score that came from the cache took no time; the run that made it did
        seconds = max((record["seconds"]["frozen"] or 0.0 for record in group), default=0.0)
        rows.append(Row(label, "frozen", "frozen", values, None, 0, 0.0, stat([seconds]) if seconds else None, ()))
    return rows


def _decoding(record: Record) -> dict[str, Any]:
    keep = {key: value for key, value in settings(record).items() if key.startswith(("decode.", "report"))}
    return keep | {key: record["backend"][key] for key in ("dtype", "device", "scan")}


def _method_rows(records: list[Record], label: str) -> list[Row]:
    """The completed seeds in one row, the diverged ones in another."""
    rows = []
    first = records[0]
    method, flattered = first["cell"]["method"], first["splits"]["selected_on_report"]
    trainable, share = first["parameters"]["trainable"], first["parameters"]["share"]
    for status, group in sorted(_grouped(records, lambda record: record["status"]).items()):
        values: dict[str, Stat] = {}
        last = None
        if status == "completed":
            best = [_chosen(record, "best") for record in group]
            shared = [name for name in best[0]["report"] if all(name in one["report"] for one in best)]
            values = {name: stat([one["report"][name] for one in best]) for name in shared}
            last = stat([_chosen(record, "last")["report"][record["primary_metric"]] for record in group])
        seconds = stat([record["seconds"]["total"] for record in group])
        seeds = tuple(sorted(record["cell"]["seed"] for record in group))
        rows.append(Row(label, method, status, values, last, trainable, share, seconds, seeds, flattered))
    return rows


def _chosen(record: Record, which: str) -> Chosen:
    chosen = record["metrics"][which]  # type: ignore[literal-required]
    assert chosen is not None, "record.py refuses completed records without it"
    return chosen


def _footnotes(records: list[Record]) -> tuple[str, ...]:
    primary = heading(records[0]["primary_metric"])
    splits = {(record["splits"]["selection"], record["splits"]["report"]) for record in records}
    notes = [
        f"points (x100) on {report}, epoch picked on {selection} by {primary}; ± sd over n seeds; "
        f"last: {primary} after the last epoch"
        for selection, report in sorted(splits)
    ]
    if any(record["splits"]["selected_on_report"] for record in records):
        notes.append("* the epoch was picked on the very split that is reported, which flatters the score")
    if any(record["status"] == "diverged" for record in records):
        notes.append("diverged: the loss was not finite or far above guessing; such runs are in no mean")
    dtypes = {record["backend"]["adapter_dtype"] for record in records}
    if len(dtypes) > 1:
        notes.append(f"adapters were trained in {' and in '.join(sorted(dtypes))}: compare such rows with care")
    doubled = sum(len(group) for group in _grouped(records, _variant).values()) - len(_newest(records))
    if doubled:
        notes.append(f"{doubled} record(s) repeat a seed of the same settings; the newest one counts")
    for method, group in sorted(_grouped(records, lambda record: record["cell"]["method"]).items()):
        options = _spelled(_common([_flat(record["cell"]["method_options"]) for record in group]))
        if options:
            notes.append(f"{method}: {options}")
    signatures = {f"{name}: {text}" for record in records for name, text in record["signatures"].items()}
    return (*notes, *sorted(signatures))


def _variant(record: Record) -> str:
    return json.dumps(settings(record))


def _newest(records: Iterable[Record]) -> list[Record]:
    return [one for group in _grouped(records, _variant).values() for one in _newest_per_seed(group)]


def _newest_per_seed(records: list[Record]) -> list[Record]:
    """A seed run twice (on two machines, say) is still one seed."""
    newest = {record["cell"]["seed"]: record for record in sorted(records, key=lambda one: one["finished"])}
    return [newest[seed] for seed in sorted(newest)]


def _labels(variants: list[dict[str, Any]]) -> list[str]:
    """ "method", with the settings in which a method's rows differ; "-" where one of them lacks a setting."""
    names = dict.fromkeys(name for variant in variants for name in variant)
    differing = [name for name in names if len({json.dumps(variant.get(name)) for variant in variants}) > 1]
    return [
        f"{variant['method']} {_spelled({name: variant.get(name) for name in differing}, absent='-')}".strip()
        for variant in variants
    ]


def _common(variants: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: value
        for name, value in variants[0].items()
        if all(name in variant and variant[name] == value for variant in variants)
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


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def stat(values: Sequence[float]) -> Stat:
    """Mean and sample standard deviation; the order of the values does not matter."""
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _grouped(records: Iterable[Record], key: Callable[[Record], K]) -> dict[K, list[Record]]:
    groups: dict[K, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups
