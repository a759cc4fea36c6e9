"""ssm-tune table: the tables of the runs so far, and their picture."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssm_tune.errors import UserError
from ssm_tune.record import Record, find_records
from ssm_tune.tables import table_key, tables_from_records

FILTERS = ("task", "data", "model")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns 0.

    Raises:
        UserError: no run to show, or the figure cannot be drawn or written.
    """
    options = _parser().parse_args(argv)
    if options.figure:
        from ssm_tune import figures

        figures.check_format(options.figure)
    found, warnings = find_records(options.results)
    for warning in warnings:
        print(f"left out: {warning}", file=sys.stderr)
    wanted = {name: getattr(options, name) for name in FILTERS if getattr(options, name)}
    chosen = [(path, record) for path, record in found if _matches(record, wanted)]
    if not chosen:
        raise UserError(_nothing(options.results, [record for _, record in found], wanted))
    _print([record for _, record in chosen], options.format)
    if options.figure:
        # the table of the newest run is the one somebody is looking at
        path, newest = max(chosen, key=lambda pair: pair[1]["finished"])
        same = [record for _, record in chosen if table_key(record) == table_key(newest)]
        figures.draw(path.parent, newest, same, options.figure)
        print(f"figure: {options.figure}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssm-tune table",
        description="Print one table for each task, data, model and protocol of the finished runs, the "
        "frozen model first; scores are points (x100), mean ± standard deviation over seeds.",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                        help="folder whose runs/ holds the records (default: results)")  # fmt: skip
    parser.add_argument("--task", help="only this task, e.g. samsum")
    parser.add_argument("--data", help="only this data, by the name in the record, e.g. sample")
    parser.add_argument("--model", help="only this model, e.g. tiny")
    parser.add_argument("--format", choices=("terminal", "markdown"), default="terminal",
                        help="how to print (default: terminal)")  # fmt: skip
    parser.add_argument("--figure", type=Path, metavar="PATH",
                        help="also draw the newest run's learning curve and the scores against trainable "
                        "parameters into PATH (.png, .pdf or .svg)")  # fmt: skip
    return parser


def _matches(record: Record, wanted: dict[str, str]) -> bool:
    return all(record["cell"][name] == value for name, value in wanted.items())  # type: ignore[literal-required]


def _nothing(results: Path, found: list[Record], wanted: dict[str, str]) -> str:
    if not found:
        return f"no finished run under {results / 'runs'}: run a cell first, or name its folder with --results"
    asked = " ".join(f"--{name} {value}" for name, value in wanted.items())
    there = sorted({" ".join(record["cell"][name] for name in FILTERS) for record in found})  # type: ignore[literal-required]
    return f"no finished run matches {asked}; there are (task data model): {', '.join(there)}"


def _print(records: list[Record], style: str) -> None:
    from rich.console import Console

    from ssm_tune import render

    tables = tables_from_records(records)
    if style == "markdown":
        print("\n".join(render.markdown(table) for table in tables), end="")
        return
    console = Console(highlight=False)
    for table in tables:
        render.terminal(table, console)
