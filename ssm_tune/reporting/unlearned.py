"""Which columns of a table tell nothing: those in which no method beats an answer without learning.

That is, of a classification, always the commonest label of the reported split; of a text task, what the base model
writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ssm_tune.records.record import rows_path
from ssm_tune.records.schema import Record
from ssm_tune.reporting.bootstrap import Sums, paired_bootstrap, sums
from ssm_tune.reporting.comparison import rows_of
from ssm_tune.utils.files import read_jsonl

Folders = Mapping[int, Path]
"""A record's run folder, by the record's id()."""
LEVEL = 0.05
RESAMPLES = 2_000


def is_unlearned(rows: Sequence[Sequence[Record]], folders: Folders) -> bool:
    """Whether no row of one column is better than the answer without learning.

    rows: of each row that has any the completed records, one a seed. Each is tested by a paired bootstrap of the
    examples, and the smallest p corrected for their number, which is what Holm's correction asks of it. Where nothing
    can be tested the column counts as learned.

    Raises UserError where stored predictions are missing or damaged.
    """
    ordered = sorted(rows, key=lambda records: -fmean(map(_score, records)))
    for records in ordered:
        sides = _sides(records, folders)
        if sides is None:
            return False
        found = paired_bootstrap(*sides, RESAMPLES)
        if found.difference > 0 and found.p * len(ordered) <= LEVEL:
            return False
    return bool(ordered)


def _score(record: Record) -> float:
    best = record["metrics"]["best"]
    return best["report"][record["primary_metric"]] if best else 0.0


def _sides(records: Sequence[Record], folders: Folders) -> tuple[list[Sums], list[Sums]] | None:
    """The leading metric of the records and of the answer without learning; None where it cannot be computed."""
    metric, folder = records[0]["primary_metric"], folders[id(records[0])]
    runs = [rows_of(folders[id(record)], record, last=False) for record in records]
    order = [row["id"] for row in runs[0]]
    without = _commonest_label(runs[0]) if "correct" in runs[0][0]["statistics"] else _base_model(folder, order)
    if without is None:
        return None
    by_id = [{row["id"]: row for row in rows} for rows in runs]
    try:
        tuned = [sums([rows[name] for name in order], metric) for rows in by_id]
        return tuned, [sums(without, metric)]
    except (ValueError, KeyError):
        return None


def _commonest_label(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as a model would leave them that always answers the commonest label."""
    (label, _), *_ = Counter(row["references_sha256"] for row in rows).most_common()
    return [row | {"statistics": {"correct": float(row["references_sha256"] == label), "outside": 0.0}} for row in rows]


def _base_model(folder: Path, order: Sequence[str]) -> list[dict[str, Any]] | None:
    path = rows_path(folder, "predictions-frozen")
    if not path.exists():
        return None
    rows = {row.get("id"): row for row in read_jsonl(path)}
    return [rows[name] for name in order] if rows.keys() >= set(order) else None
