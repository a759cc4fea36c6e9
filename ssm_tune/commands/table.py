"""ssm-tune table: the tables of the runs so far; those of conf/table; the files of tables and figures."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_tune.commands.arguments import Parser
from ssm_tune.records import where
from ssm_tune.records.schema import Record
from ssm_tune.reporting import run_figure
from ssm_tune.reporting.grouping import table_key
from ssm_tune.reporting.run_tables import tables_from_records
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import printable

if TYPE_CHECKING:
    from ssm_tune.reporting.build import Found
    from ssm_tune.reporting.published import Published
    from ssm_tune.reporting.table import Table

FILTERS = ("task", "data", "model")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write or check their files; returns 0, or 1 where --check finds a difference.

    Raises:
        UserError: no run to show, two records that disagree, or something cannot be drawn or written.
    """
    options = _parser().parse_args(argv)
    if options.figure:
        run_figure.check_format(options.figure)
    found, warnings = where.read(options.results)
    for warning in warnings:
        print(f"left out: {printable(warning)}", file=sys.stderr)
    if options.write or options.check:
        return _files(options, found, damaged=bool(warnings))
    from ssm_tune.reporting.build import agreeing

    wanted = {name: getattr(options, name) for name in FILTERS if getattr(options, name)}
    chosen = [(path, record) for path, record in found if _matches(record, wanted)]
    if not chosen and not options.name:
        raise UserError(_nothing(options.results, [record for _, record in found], wanted))
    agreeing(chosen)
    if options.name:
        _print_planned(options, chosen)
    else:
        _print_all([record for _, record in chosen], options)
    if options.figure:
        # the table of the newest run is the one somebody is looking at
        path, newest = max(chosen, key=lambda pair: pair[1]["finished"])
        (table,) = tables_from_records([one for _, one in chosen if table_key(one) == table_key(newest)])
        run_figure.draw(path.parent, newest, table, options.figure)
        print(f"figure: {options.figure}", file=sys.stderr)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune table",
        description="Without a NAME: one table for each task, data, model and protocol of the finished runs, the "
        "base model first. With a NAME: that table of conf/table, methods against tasks; the command lines that "
        "would fill its gaps go to stderr. Scores are points (x100), mean ± standard deviation over seeds.",
    )
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help="tables of conf/table, such as main or leaderboard, or a yaml"
    )
    where.add_option(parser)
    parser.add_argument("--task", help="only this task, e.g. samsum")
    parser.add_argument("--data", help="only this data, by the name in the record, e.g. sample")
    parser.add_argument("--model", help="only this model, e.g. tiny")
    parser.add_argument(
        "--format",
        choices=("terminal", "markdown", "latex", "csv"),
        default="terminal",
        help="how to print (default: terminal)",
    )
    parser.add_argument(
        "--published",
        type=Path,
        metavar="FILE",
        help="published values (yaml or csv) to show beside ours; see docs/results.md",
    )
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="PATH",
        help="also draw the newest run's learning curve and the scores against trainable "
        "parameters into PATH (.png, .pdf or .svg)",
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--write",
        action="store_true",
        help="write DIR/tables and DIR/figures: every table of conf/table that has records",
    )
    files.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if the files of --write are not current"
    )
    return parser


def _files(options: argparse.Namespace, found: "Found", damaged: bool) -> int:
    """--write and --check."""
    from ssm_tune.reporting import build

    if options.name or options.figure or any(getattr(options, name) for name in FILTERS):
        raise UserError("table --write and --check make all tables: give them no NAME, filter or --figure")
    folder = where.one_folder(options.results, "table --write and --check")
    built = build.build(found, _published(options))
    for name, commands in built.missing.items():
        for command in commands:
            print(f"missing in {name}: {command}", file=sys.stderr)
    if options.write:
        written = build.write(folder, built)
        for path in build.stale(folder, built):
            print(f"{path} is of no table that the records give: delete it if it is not wanted", file=sys.stderr)
        print(f"{len(found)} records, {len(built.files)} files of tables and figures, {len(written)} of them changed")
        return 0
    different = build.differences(folder, built)
    for line in different:
        print(line)
    if elsewhere := build.drawn_elsewhere(folder, built):
        print(f"{elsewhere} pictures were drawn by other versions of matplotlib: their data alone were compared")
    if different or damaged:
        print("tables and figures are not current: make tables")
        return 1
    print(f"{len(built.files)} files of tables and figures are current")
    return 0


def _print_all(records: list[Record], options: argparse.Namespace) -> None:
    """A table for each task, data, model and protocol; as CSV a line a record."""
    if options.format == "csv":
        from ssm_tune.reporting.export_formats import records_csv

        print(records_csv(records), end="")
    else:
        _print(tables_from_records(records), options)


def _print_planned(options: argparse.Namespace, chosen: "Found") -> None:
    """Tables of conf/table."""
    from ssm_tune.reporting.planned_table import fill
    from ssm_tune.reporting.table_spec import load_table_spec

    records, folders = [record for _, record in chosen], {id(record): path.parent for path, record in chosen}
    tables = [fill(load_table_spec(name), records, folders) for name in options.name]
    _print(tables, options, _published(options))
    for command in dict.fromkeys(command for table in tables for command in table.missing):
        print(f"missing: {command}", file=sys.stderr)


def _print(tables: "Sequence[Table]", options: argparse.Namespace, published: "Published | None" = None) -> None:
    from ssm_tune.reporting.export_formats import latex, table_csv
    from ssm_tune.reporting.render import markdown, terminal, text_table

    if options.format == "csv":
        print("".join(map(table_csv, tables)), end="")
        return
    texts = [text_table(table, published) for table in tables]
    if options.format == "terminal":
        from rich.console import Console

        console = Console(highlight=False)
        for text in texts:
            terminal(text, console)
    else:
        print("\n".join(map({"markdown": markdown, "latex": latex}[options.format], texts)), end="")


def _published(options: argparse.Namespace) -> "Published | None":
    from ssm_tune.reporting.published import read_published

    return read_published(options.published) if options.published else None


def _matches(record: Record, wanted: dict[str, str]) -> bool:
    return all(record["cell"][name] == value for name, value in wanted.items())  # type: ignore[literal-required]


def _nothing(results: str, found: list[Record], wanted: dict[str, str]) -> str:
    if not found:
        return f"no finished run {where.nothing_in(results)}: start a run first, or name its folder with --results"
    asked = " ".join(f"--{name} {value}" for name, value in wanted.items())
    there = sorted({" ".join(record["cell"][name] for name in FILTERS) for record in found})  # type: ignore[literal-required]
    return f"no finished run matches {asked}; there are (task data model): {', '.join(there)}{where.elsewhere(results)}"
