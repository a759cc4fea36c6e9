"""ssm-tune report: one self-contained HTML file of the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssm_tune.records.record import find_records
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write
from ssm_tune.utils.text import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and print its path; returns 0.

    Raises:
        UserError: no record fits, two disagree, or the file cannot be written.
    """
    options = _parser().parse_args(argv)
    from ssm_tune.reporting.build import agreeing
    from ssm_tune.reporting.html_report import page
    from ssm_tune.reporting.planned_table import fill
    from ssm_tune.reporting.table_spec import load_table_spec

    found, warnings = find_records(options.results)
    for warning in warnings:
        print(f"left out: {printable(warning)}", file=sys.stderr)
    agreeing(found)
    wanted = {name: getattr(options, name) for name in ("task", "data", "model") if getattr(options, name)}
    chosen = [
        (path, record)
        for path, record in found
        if all(record["cell"][name] == value for name, value in wanted.items())  # type: ignore[literal-required]
    ]
    table = fill(load_table_spec(options.name), [record for _, record in chosen])
    if table.empty:
        raise UserError(
            f"no finished run under {options.results / 'runs'} belongs to the table {options.name}: "
            f"ssm-tune table {options.name} names the commands that make its runs"
        )
    folders = {id(record): path.parent for path, record in chosen}
    print(atomic_write(options.output, [page(table, folders, options.examples).encode("utf-8")]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssm-tune report",
        description="Write one HTML file about a table of conf/table: the table, sortable; learning curves; and the "
        "methods' answers to the same examples, side by side. It needs no network and no other file.",
    )
    parser.add_argument("name", nargs="?", default="tiny", metavar="NAME", help="the table (default: tiny)")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder whose runs/ holds the records (default: results)",
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    for name in ("task", "data", "model"):
        parser.add_argument(f"--{name}", help=f"only runs of this {name}")
    parser.add_argument(
        "--examples", type=int, default=8, metavar="N", help="answers to show of each task (default: 8)"
    )
    return parser
