"""ssm-tune compare: two runs or two methods, example by example, with a paired bootstrap."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_tune.errors import UserError
from ssm_tune.record import RECORD_NAME, Record, find_records, read_jsonl, read_record, rows_path
from ssm_tune.tables import heading, settings, table_key

if TYPE_CHECKING:
    from ssm_tune.reporting.resample import Interval, Sums

FILTERS = ("task", "data", "model", "protocol")


@dataclass(frozen=True)
class Side:
    """What is compared: runs that differ in nothing but the seed. rows: of each run, in one order of examples."""

    label: str
    paths: tuple[Path, ...]
    records: tuple[Record, ...]
    rows: tuple[list[dict[str, Any]], ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; returns 0.

    Raises:
        UserError: a side has no run or several kinds of run, or the two were not scored on the same examples.
    """
    options = _parser().parse_args(argv)
    if options.resamples < 100:
        raise UserError(f"--resamples must be at least 100, got {options.resamples}")
    found, warnings = ([], []) if all(map(_is_run, options.sides)) else find_records(options.results)
    for warning in warnings:
        print(f"left out: {warning}", file=sys.stderr)
    first, second = (_side(word, options, found) for word in options.sides)
    _same(first, second)
    order = [row["id"] for row in first.rows[0]]
    sides = [_aligned(side, order, first) for side in (first, second)]
    metrics = [options.metric] if options.metric else [*first.records[0]["headline"]]
    results: list[dict[str, Any]] = []
    for metric in metrics:
        compared = _compared(sides[0], sides[1], metric, options)
        if compared is None:
            print(f"left out: {metric} cannot be computed from what is stored of each example", file=sys.stderr)
            continue
        results.append(compared)
    if not results:
        raise UserError("none of these metrics can be resampled: name another one with --metric")
    _print(sides, results, options, len(order))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssm-tune compare",
        description="Compare two runs, or two methods over their seeds, on the examples that both answered: the "
        "difference A - B in points, its 95%% interval and p by a paired bootstrap over examples. Where a side has "
        "several seeds, its score is their mean in every resample; the interval is about examples, not about seeds.",
    )
    parser.add_argument("sides", nargs=2, metavar="A_OR_B", help="a run folder, or a method's name, options after a "
                        "comma: state_offset,rank=4")  # fmt: skip
    for name in FILTERS:
        parser.add_argument(f"--{name}", help=f"only runs of this {name}, where a method is named")
    parser.add_argument("--metric", help="this metric alone (default: those that tables show)")
    parser.add_argument("--last", action="store_true", help="predictions of the last epoch, not of the best one")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                        help="folder whose runs/ holds the records (default: results)")  # fmt: skip
    parser.add_argument("--resamples", type=int, default=10_000, metavar="N", help="default: 10000")
    parser.add_argument("--seed", type=int, default=20250, metavar="N", help="of the resampling (default: 20250)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _is_run(word: str) -> bool:
    return Path(word).is_dir() or Path(word).name == RECORD_NAME


def _side(word: str, options: argparse.Namespace, found: list[tuple[Path, Record]]) -> Side:
    if _is_run(word):
        path = Path(word)
        folder = path if path.is_dir() else path.parent
        chosen = [(folder / RECORD_NAME, read_record(folder))]
        label = f"{chosen[0][1]['cell']['method']}, seed {chosen[0][1]['cell']['seed']}"
    else:
        chosen, label = _of_method(word, options, found), word
    usable = [
        (path, record) for path, record in chosen if record["metrics"]["best"] and record["status"] == "completed"
    ]
    if not usable:
        raise UserError(f"{word}: its {len(chosen)} run(s) diverged and have nothing to compare")
    rows = tuple(_rows(path.parent, record, options.last) for path, record in usable)
    return Side(label, tuple(path for path, _ in usable), tuple(record for _, record in usable), rows)


def _of_method(word: str, options: argparse.Namespace, found: list[tuple[Path, Record]]) -> list[tuple[Path, Record]]:
    """A method's runs, one a seed. Raises UserError where there are none, or of more than one kind."""
    method, *parts = word.split(",")
    asked = {name: value for name, _, value in (part.partition("=") for part in parts)}
    wanted = {name: getattr(options, name) for name in FILTERS if getattr(options, name)}

    def fits(record: Record) -> bool:
        cell: Any = record["cell"]
        given = {name: _spelled(value) for name, value in cell["method_options"].items()}
        return (
            cell["method"] == method
            and all(cell[name] == value for name, value in wanted.items())
            and all(given.get(name) == value for name, value in asked.items())
        )

    chosen = [(path, record) for path, record in found if fits(record)]
    if not chosen:
        filters = "".join(f" --{name} {value}" for name, value in wanted.items())
        there = ", ".join(sorted({record["cell"]["method"] for _, record in found})) or "none at all"
        raise UserError(f"{word}: no such folder, and no run of such a method{filters}; there are runs of {there}")
    for what, key in (("tables", table_key), ("settings", settings)):
        kinds = {json.dumps(key(record)): path for path, record in chosen}
        if len(kinds) > 1:
            one, other = sorted(map(str, kinds.values()))[:2]
            hint = (
                "--task, --data, --model or --protocol" if what == "tables" else "an option (METHOD,rank=4) or a folder"
            )
            raise UserError(f"{word}: its runs are of several {what}, such as {one} and {other}: choose by {hint}")
    ordered = sorted(chosen, key=lambda pair: pair[1]["finished"])
    newest = {record["cell"]["seed"]: (path, record) for path, record in ordered}
    return [newest[seed] for seed in sorted(newest)]


def _spelled(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)


def _rows(folder: Path, record: Record, last: bool) -> list[dict[str, Any]]:
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


def _same(first: Side, second: Side) -> None:
    """Raises UserError, with both paths, unless the two sides answered the same examples under the same rules."""
    one, other = first.records[0], second.records[0]
    both = f"{first.paths[0]} and {second.paths[0]}"
    for what, left, right in (
        ("tasks", one["cell"]["task"], other["cell"]["task"]),
        ("data", (one["cell"]["data"], one["hashes"]["data"]), (other["cell"]["data"], other["hashes"]["data"])),
        ("splits", one["splits"]["report"], other["splits"]["report"]),
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


def _aligned(side: Side, order: list[str], first: Side) -> Side:
    """The side with every run's rows in ``order``. Raises UserError where its examples are others."""
    known = {row["id"]: row["references_sha256"] for row in first.rows[0]}
    fresh = []
    for path, rows in zip(side.paths, side.rows, strict=True):
        by_id = {row["id"]: row for row in rows}
        if {name: row["references_sha256"] for name, row in by_id.items()} != known:
            raise UserError(f"{first.paths[0]} and {path} cannot be compared: their predictions answer other examples")
        fresh.append([by_id[name] for name in order])
    return Side(side.label, side.paths, side.records, tuple(fresh))


def _compared(first: Side, second: Side, metric: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """One metric's numbers, or None where it is no function of what is stored."""
    from ssm_tune.reporting.resample import paired_bootstrap

    values = [_checked(side, metric, options.last) for side in (first, second)]
    if not all(values):
        return None
    result: Interval = paired_bootstrap(values[0], values[1], options.resamples, options.seed)
    means = [sum(one.whole for one in side) / len(side) for side in values]
    return {"metric": metric, "a": means[0], "b": means[1], **asdict(result)}


def _checked(side: Side, metric: str, last: bool) -> list[Sums]:
    """Each run's metric as sums, which must give the record's own value. Raises UserError."""
    from ssm_tune.reporting.resample import TOLERANCE, sums

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


def _print(sides: list[Side], results: list[dict[str, Any]], options: argparse.Namespace, count: int) -> None:
    record = sides[0].records[0]
    if options.json:
        seeds = [[one["cell"]["seed"] for one in side.records] for side in sides]
        print(json.dumps({"a": sides[0].label, "b": sides[1].label, "seeds": seeds, "examples": count,
                          "resamples": options.resamples, "seed": options.seed, "metrics": results},
                         indent=2))  # fmt: skip
        return
    cell = record["cell"]
    print(f"{cell['task']} on {cell['data']}, {record['splits']['report']} split, {cell['protocol']} protocol, "
          f"{'last' if options.last else 'best'} epoch: {count} examples")  # fmt: skip
    for name, side in zip("AB", sides, strict=True):
        print(f"{name}: {side.label}, {side.records[0]['cell']['model']}, "
              f"seeds {', '.join(str(one['cell']['seed']) for one in side.records)}")  # fmt: skip
    print(f"{'metric':<22}{'A':>9}{'B':>9}{'A - B':>9}{'95% interval':>20}{'p':>9}")
    for one in results:
        interval = f"[{100 * one['low']:+.2f}, {100 * one['high']:+.2f}]"
        p = f"{one['p']:.4f}"
        numbers = f"{100 * one['a']:>9.2f}{100 * one['b']:>9.2f}{100 * one['difference']:>+9.2f}"
        print(f"{heading(one['metric']):<22}{numbers}{interval:>20}{p:>9}")
    print(f"points; paired bootstrap, {options.resamples} resamples of the examples, seed {options.seed}")
