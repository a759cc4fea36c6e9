"""Which records may stand in one table, in one row, and in one mean.

Records of one row differ in nothing but the seed: same method and options, training and decoding settings, learning
rate, dtypes, data, weights and metric signatures. What moves only speed or memory may differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from ssm_tune.records.run_id import EXECUTION
from ssm_tune.records.schema import Record

K = TypeVar("K")
V = TypeVar("V")


class Key(NamedTuple):
    """What the rows of one table share. Hashes are sha256."""

    task: str
    data: str
    data_hash: str
    model: str
    model_hash: str
    protocol: str
    metric: str
    limit: int = 0
    """examples of each split that a smoke run used at most; 0: all"""


def table_key(record: Record) -> Key:
    """The table that a record belongs to."""
    run, hashes = record["cell"], record["hashes"]
    return Key(
        task=run["task"],
        data=run["data"],
        data_hash=hashes["data"],
        model=run["model"],
        model_hash=hashes["model"],
        protocol=run["protocol"],
        metric=record["primary_metric"],
        limit=limit_of(record),
    )


def limit_of(record: Record) -> int:
    """``splits.limit`` of a record; 0 where it has none, as results have."""
    limit = record["config"].get("splits", {}).get("limit")
    return limit if isinstance(limit, int) else 0


def settings(record: Record) -> dict[str, Any]:
    """Everything but the seed that moves a record's scores, by dotted name; what moves only speed or memory is out."""
    config, backend = record["config"], record["backend"]
    parts = {name: config.get(name) for name in ("train", "decode", "splits")}
    found = {"method": record["cell"]["method"]} | flat(record["cell"]["method_options"])
    found |= {f"{name}.{key}": value for name, part in parts.items() for key, value in flat(part or {}).items()}
    for section, names in EXECUTION.items():
        for name in names:
            found.pop(f"{section}.{name}", None)
    # as resolved, where the configuration may say auto or nothing
    found["train.learning_rate"] = record["learning_rate"]["value"]
    found["train.adapter_dtype"] = backend["adapter_dtype"]
    found["dtype"] = backend["dtype"]
    found |= {f"{role}_split": record["splits"][role] for role in ("selection", "report")}
    found |= {f"signature.{name}": text for name, text in record["signatures"].items()}
    return dict(sorted(found.items()))


def variant(record: Record) -> str:
    """The same for all records of one row, and for no other."""
    return json.dumps(settings(record))


def grouped(values: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    """The values by key, in the order in which keys and values come."""
    groups: dict[K, list[V]] = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return groups


def newest_per_seed(records: Iterable[Record]) -> list[Record]:
    """One record a seed, in order of seeds: a seed run twice (on two machines, say) is still one seed."""
    ordered = sorted(records, key=lambda record: (record["finished"], json.dumps(record["metrics"])))
    newest = {record["cell"]["seed"]: record for record in ordered}
    return [newest[seed] for seed in sorted(newest)]


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dict with dotted names."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
