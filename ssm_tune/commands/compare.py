"""ssm-tune compare: two runs or two methods, example by example, with a paired bootstrap."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssm_tune.commands.arguments import Parser
from ssm_tune.config.variants import spelled
from ssm_tune.metrics.names import heading
from ssm_tune.records import where
from ssm_tune.records.record import RECORD_NAME, read_record
from ssm_tune.records.schema import Record
from ssm_tune.reporting.comparison import Side, aligned, compared, require_same, rows_of
from ssm_tune.reporting.grouping import settings, table_key
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import printable

FILTERS = ("task", "data", "model", "protocol")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison; returns 0.

    Raises:
        UserError: a side has no run or several kinds of run, or the two were not scored on the same examples.
    """
    options = _parser().parse_args(argv)
    if len(options.sides) != 2:
        raise UserError("compare takes two runs or methods: ssm-tune compare state_offset lora --task samsum")
    if options.resamples < 100:
        raise UserError(f"--resamples must be at least 100, got {options.resamples}")
    found, warnings = ([], []) if all(map(_is_run, options.sides)) else where.read(options.results)
    for warning in warnings:
        print(f"left out: {printable(warning)}", file=sys.stderr)
    first, second = (_side(word, options, found) for word in options.sides)
    require_same(first, second)
    order = [row["id"] for row in first.rows[0]]
    sides = [aligned(side, order, first) for side in (first, second)]
    metrics = [options.metric] if options.metric else [*first.records[0]["headline"]]
    results: list[dict[str, Any]] = []
    for metric in metrics:
        one = compared(sides[0], sides[1], metric, options.last, options.resamples, options.seed)
        if one is None:
            print(f"left out: {metric} cannot be computed from what is stored of each example", file=sys.stderr)
            continue
        results.append(one)
    if not results:
        raise UserError("none of these metrics can be resampled: name another one with --metric")
    _print(sides, results, options, len(order))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune compare",
        description="Compare two runs, or two methods over their seeds, on the examples that both answered: the "
        "difference A - B in points, its 95% interval and p by a paired bootstrap over examples. Where a side has "
        "several seeds, its score is their mean in every resample; the interval is about examples, not about seeds.",
    )
    parser.add_argument(
        "sides",
        nargs="*",
        metavar="A B",
        help="the two, each a run folder, or a method's name, options after a comma: state_offset,rank=4",
    )
    for name in FILTERS:
        parser.add_argument(f"--{name}", help=f"only runs of this {name}, where a method is named")
    parser.add_argument("--metric", help="this metric alone (default: those that tables show)")
    parser.add_argument("--last", action="store_true", help="predictions of the last epoch, not of the best one")
    where.add_option(parser)
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
    rows = tuple(rows_of(path.parent, record, options.last) for path, record in usable)
    return Side(label, tuple(path for path, _ in usable), tuple(record for _, record in usable), rows)


def _of_method(word: str, options: argparse.Namespace, found: list[tuple[Path, Record]]) -> list[tuple[Path, Record]]:
    """A method's runs, one a seed. Raises UserError where there are none, or of more than one kind."""
    method, *parts = word.split(",")
    asked = {name: value for name, _, value in (part.partition("=") for part in parts)}
    wanted = {name: getattr(options, name) for name in FILTERS if getattr(options, name)}

    def fits(record: Record) -> bool:
        run: Any = record["cell"]
        given = {name: spelled(value) for name, value in run["method_options"].items()}
        return (
            run["method"] == method
            and all(run[name] == value for name, value in wanted.items())
            and all(given.get(name) == value for name, value in asked.items())
        )

    chosen = [(path, record) for path, record in found if fits(record)]
    if not chosen:
        filters = "".join(f" --{name} {value}" for name, value in wanted.items())
        there = ", ".join(sorted({record["cell"]["method"] for _, record in found}))
        hint = f"there are runs of {there}{where.elsewhere(options.results)}"
        hint = hint if there else f"there is no run at all {where.nothing_in(options.results)}"
        raise UserError(f"{word}: no such folder, and no run of such a method{filters}; {hint}")
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


def _print(sides: list[Side], results: list[dict[str, Any]], options: argparse.Namespace, count: int) -> None:
    record = sides[0].records[0]
    if options.json:
        seeds = [[one["cell"]["seed"] for one in side.records] for side in sides]
        found = {"a": sides[0].label, "b": sides[1].label, "seeds": seeds, "examples": count}
        found |= {"resamples": options.resamples, "seed": options.seed, "metrics": results}
        print(json.dumps(found, indent=2))
        return
    run, report = record["cell"], record["splits"]["report"]
    epoch = "last" if options.last else "best"
    where = f"{run['task']} on {run['data']}, {report} split, {run['protocol']} protocol, {epoch} epoch"
    print(printable(f"{where}: {count} examples"))
    for name, side in zip("AB", sides, strict=True):
        names = ", ".join(str(one["cell"]["seed"]) for one in side.records)
        print(printable(f"{name}: {side.label}, {side.records[0]['cell']['model']}, seeds {names}"))
    print(f"{'metric':<22}{'A':>9}{'B':>9}{'A - B':>9}{'95% interval':>20}{'p':>9}")
    for one in results:
        interval = f"[{100 * one['low']:+.2f}, {100 * one['high']:+.2f}]"
        p = f"{one['p']:.4f}"
        numbers = f"{100 * one['a']:>9.2f}{100 * one['b']:>9.2f}{100 * one['difference']:>+9.2f}"
        print(f"{printable(heading(one['metric'])):<22}{numbers}{interval:>20}{p:>9}")
    print(f"points; paired bootstrap, {options.resamples} resamples of the examples, seed {options.seed}")
