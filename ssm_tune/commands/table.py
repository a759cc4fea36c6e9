"""ssm-tune table: the tables of the runs so far; those of conf/table; the files of results/tables and figures."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_tune.records.record import find_records
from ssm_tune.records.schema import Record
from ssm_tune.reporting.run_tables import table_key, tables_from_records
from ssm_tune.utils.errors import UserError

if TYPE_CHECKING:
    from ssm_tune.reporting.build import Found

FILTERS = ("task", "data", "model")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write or check their files; returns 0, or 1 where --check finds a difference.

    Raises:
        UserError: no run to show, two records that disagree, or something cannot be drawn or written.
    """
    options = _parser().parse_args(argv)
    if options.figure:
        from ssm_tune.reporting import run_figure as figures

        figures.check_format(options.figure)
    found, warnings = find_records(options.results)
    for warning in warnings:
        print(f"left out: {warning}", file=sys.stderr)
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
        description="Without a NAME: one table for each task, data, model and protocol of the finished runs, the "
        "frozen model first. With a NAME: that table of conf/table, methods against tasks; the command lines that "
        "would fill its gaps go to stderr. Scores are points (x100), mean ± standard deviation over seeds.",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a table of conf/table, such as main or tiny, or a yaml"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                        help="folder whose runs/ holds the records (default: results)")  # fmt: skip
    parser.add_argument("--task", help="only this task, e.g. samsum")
    parser.add_argument("--data", help="only this data, by the name in the record, e.g. sample")
    parser.add_argument("--model", help="only this model, e.g. tiny")
    parser.add_argument("--format", choices=("terminal", "markdown", "latex", "csv"), default="terminal",
                        help="how to print (default: terminal); latex and csv need a NAME")  # fmt: skip
    parser.add_argument("--published", type=Path, metavar="FILE",
                        help="published values (yaml or csv) to show beside ours; see docs/results.md")  # fmt: skip
    parser.add_argument("--figure", type=Path, metavar="PATH",
                        help="also draw the newest run's learning curve and the scores against trainable "
                        "parameters into PATH (.png, .pdf or .svg)")  # fmt: skip
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--write", action="store_true",
                       help="write DIR/tables and DIR/figures: every table of conf/table that has records")  # fmt: skip
    files.add_argument("--check", action="store_true",
                       help="write nothing; exit status 1 if the files of --write are not current")  # fmt: skip
    return parser


def _files(options: argparse.Namespace, found: "Found", damaged: bool) -> int:
    """--write and --check."""
    from ssm_tune.reporting import build

    if options.name or options.figure or any(getattr(options, name) for name in FILTERS):
        raise UserError("table --write and --check make all tables: give them no NAME, filter or --figure")
    built = build.build(found, _published(options))
    for name, commands in built.missing.items():
        for command in commands:
            print(f"missing in {name}: {command}", file=sys.stderr)
    if options.write:
        written = build.write(options.results, built)
        for path in build.stale(options.results, built):
            print(f"{path} is of no table that the records give: delete it if it is not wanted", file=sys.stderr)
        print(f"{len(found)} records, {len(built.files)} files of tables and figures, {len(written)} of them changed")
        return 0
    different = build.differences(options.results, built)
    for line in different:
        print(line)
    if elsewhere := build.drawn_elsewhere(options.results, built):
        print(f"{elsewhere} pictures were drawn by other versions of matplotlib: their data alone were compared")
    if different or damaged:
        print("tables and figures are not current: make tables")
        return 1
    print(f"{len(built.files)} files of tables and figures are current")
    return 0


def _print_planned(options: argparse.Namespace, chosen: "Found") -> None:
    """One table of conf/table."""
    from ssm_tune.reporting import export_formats
    from ssm_tune.reporting import render as sheet
    from ssm_tune.reporting.grid import fill
    from ssm_tune.reporting.table_spec import load_layout

    grid = fill(load_layout(options.name), [record for _, record in chosen])
    shown = sheet.sheet(grid, _published(options))
    if options.format == "terminal":
        from rich.console import Console

        sheet.terminal(shown, Console(highlight=False))
    else:
        made = {"markdown": sheet.markdown, "latex": export_formats.latex}
        print(export_formats.comma_separated(grid) if options.format == "csv" else made[options.format](shown), end="")
    for command in grid.missing:
        print(f"missing: {command}", file=sys.stderr)


def _published(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from ssm_tune.reporting.published import read_published

    return read_published(options.published) if options.published else None


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

    from ssm_tune.reporting import run_render as render

    if style in ("latex", "csv"):
        raise UserError(f"--format {style} needs the NAME of a table of conf/table")
    tables = tables_from_records(records)
    if style == "markdown":
        print("\n".join(render.markdown(table) for table in tables), end="")
        return
    console = Console(highlight=False)
    for table in tables:
        render.terminal(table, console)
