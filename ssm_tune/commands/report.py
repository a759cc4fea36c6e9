"""ssm-tune report: one self-contained HTML file of the results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_tune.commands.arguments import Parser
from ssm_tune.commands.data_at_hand import DataAtHand
from ssm_tune.records import where
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write
from ssm_tune.utils.text import printable

if TYPE_CHECKING:
    from ssm_tune.reporting.table import Table


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and print its path; returns 0.

    Raises:
        UserError: no record fits, two disagree, or the file cannot be written.
    """
    options = _parser().parse_args(argv)
    from ssm_tune.reporting.build import agreeing
    from ssm_tune.reporting.html.page import page
    from ssm_tune.reporting.planned_table import fill
    from ssm_tune.reporting.run_tables import tables_from_records
    from ssm_tune.reporting.table_spec import load_table_spec

    found, warnings = where.read(options.results)
    for warning in warnings:
        print(f"left out: {printable(warning)}", file=sys.stderr)
    agreeing(found)
    wanted = {name: getattr(options, name) for name in ("task", "data", "model") if getattr(options, name)}
    chosen = [
        (path, record)
        for path, record in found
        if all(record["cell"][name] == value for name, value in wanted.items())  # type: ignore[literal-required]
    ]
    records, folders = [record for _, record in chosen], {id(record): path.parent for path, record in chosen}
    if options.name:
        tables = [table for name in options.name if not (table := fill(load_table_spec(name), records, folders)).empty]
    else:
        tables = [_numbered(table, number) for number, table in enumerate(tables_from_records(records))]
    if not tables:
        names, filters = " or ".join(options.name), "".join(f" --{name} {value}" for name, value in wanted.items())
        belongs = f" belongs to the table {names}" if names else f" matches{filters}" if filters else ""
        hint = f": ssm-tune table {options.name[0]} names the commands that make its runs" if names else ""
        raise UserError(f"no finished run {where.nothing_in(options.results)}{belongs}{hint}")
    at_hand = DataAtHand("--data-root", options.data_root)
    print(atomic_write(options.output, [page(tables, folders, at_hand, options.examples).encode("utf-8")]))
    return 0


def _numbered(table: Table, number: int) -> Table:
    """The table with a name of its own on the page: those of a task on several models or data share theirs."""
    return replace(table, spec=replace(table.spec, name=f"{table.spec.name}-{number}"))


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune report",
        description="Write one HTML file about all runs that are found, or about tables of conf/table: sorted by a "
        "press on a heading, filtered by task and model; behind each score its runs, curves, settings, predictions "
        "beside inputs and references, and the command that repeats it. It needs no network and no other file.",
    )
    parser.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="tables of conf/table, such as leaderboard (default: every run that is found, a table a task)",
    )
    where.add_option(parser)
    parser.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    for name in ("task", "data", "model"):
        parser.add_argument(f"--{name}", help=f"only runs of this {name}")
    parser.add_argument(
        "--examples", type=int, default=8, metavar="N", help="predictions that a cell shows (default: 8)"
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="the folder where local data lie now, for inputs and references; default: where the runs read them",
    )
    return parser
