"""Two sides of a comparison, example by example: their stored predictions, aligned and resampled together."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssm_tune.records.record import rows_path
from ssm_tune.records.schema import Record
from ssm_tune.reporting.bootstrap import RESAMPLES, SEED, TOLERANCE, Interval, Sums, paired_bootstrap, sums
from ssm_tune.reporting.grouping import limit_of
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl


@dataclass(frozen=True)
class Side:
    """What is compared: runs that differ in nothing but the seed. rows: of each run, in one order of examples."""

    label: str
    paths: tuple[Path, ...]
    records: tuple[Record, ...]
    rows: tuple[list[dict[str, Any]], ...]


def rows_of(folder: Path, record: Record, last: bool) -> list[dict[str, Any]]:
    """A run's stored predictions. Raises UserError for what they lack."""
    best, end = record["metrics"]["best"], record["metrics"]["last"]
    other = last and best and end and best["step"] != end["step"]
    path = rows_path(folder, "predictions-last" if other else "predictions")
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        lacking = [name for name in ("id", "statistics", "references_sha256") if name not in row]
        if lacking:
            raise UserError(f"{path} line {number}: no field {lacking[0]!r}")
    if len({row["id"] for row in rows}) != len(rows) or not rows:
        raise UserError(f"{path}: an id stands there twice, or there is none")
    return rows


def require_same(first: Side, second: Side) -> None:
    """Raises UserError, with both paths, unless the two sides answered the same examples under the same rules."""
    one, other = first.records[0], second.records[0]
    both = f"{first.paths[0]} and {second.paths[0]}"
    for what, left, right in (
        ("tasks", one["cell"]["task"], other["cell"]["task"]),
        ("data", (one["cell"]["data"], one["hashes"]["data"]), (other["cell"]["data"], other["hashes"]["data"])),
        ("splits", one["splits"]["report"], other["splits"]["report"]),
        ("splits.limit", limit_of(one), limit_of(other)),
        ("protocols", one["cell"]["protocol"], other["cell"]["protocol"]),
        ("metric signatures", one["signatures"], other["signatures"]),
    ):
        if left != right:
            raise UserError(f"{both} cannot be compared: their {what} differ ({_short(left)} and {_short(right)})")
    if one["hashes"]["model"] != other["hashes"]["model"]:
        print(f"note: the models differ, {one['cell']['model']} and {other['cell']['model']}", file=sys.stderr)


def _short(value: Any) -> str:
    parts = value if isinstance(value, tuple) else [value]
    return " ".join(str(part)[:80] for part in parts)


def aligned(side: Side, order: list[str], first: Side) -> Side:
    """The side with every run's rows in ``order``. Raises UserError where its examples are others."""
    known = {row["id"]: row["references_sha256"] for row in first.rows[0]}
    fresh = []
    for path, rows in zip(side.paths, side.rows, strict=True):
        by_id = {row["id"]: row for row in rows}
        if {name: row["references_sha256"] for name, row in by_id.items()} != known:
            raise UserError(f"{first.paths[0]} and {path} cannot be compared: their predictions answer other examples")
        fresh.append([by_id[name] for name in order])
    return Side(side.label, side.paths, side.records, tuple(fresh))


def compared(
    first: Side, second: Side, metric: str, last: bool = False, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Any] | None:
    """One metric's numbers, or None where it is no function of what is stored."""
    values = [_checked(side, metric, last) for side in (first, second)]
    if not all(values):
        return None
    result: Interval = paired_bootstrap(values[0], values[1], resamples, seed)
    means = [sum(one.whole for one in side) / len(side) for side in values]
    return {"metric": metric, "a": means[0], "b": means[1], **asdict(result)}


def _checked(side: Side, metric: str, last: bool) -> list[Sums]:
    """Each run's metric as sums, which must give the record's own value. Raises UserError."""
    found = []
    for path, record, rows in zip(side.paths, side.records, side.rows, strict=True):
        chosen: Any = record["metrics"]["last" if last else "best"]
        if metric not in chosen["report"]:
            known = ", ".join(chosen["report"])
            raise UserError(f"{path} has no metric {metric!r}; it has {known}")
        try:
            one = sums(rows, metric)
        except ValueError:
            return []
        except (KeyError, TypeError) as error:
            raise UserError(f"{path.parent}: a prediction's statistics are damaged ({error!r})") from error
        if abs(one.whole - chosen["report"][metric]) > TOLERANCE:
            raise UserError(
                f"{path.parent}: the predictions give {metric} {one.whole:.6f} and the record says "
                f"{chosen['report'][metric]:.6f}: they do not belong together"
            )
        found.append(one)
    return found
