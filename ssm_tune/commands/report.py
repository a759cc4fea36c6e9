"""ssm-tune report: one self-contained HTML file of the results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ssm_tune.commands.arguments import Parser
from ssm_tune.records import where
from ssm_tune.records.schema import Record
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
    from ssm_tune.reporting.html.page import page
    from ssm_tune.reporting.planned_table import fill
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
    asked = options.name or ["tiny"]
    tables = [table for name in asked if not (table := fill(load_table_spec(name), records, folders)).empty]
    if not tables:
        raise UserError(
            f"no finished run {where.nothing_in(options.results)} belongs to the table {' or '.join(asked)}: "
            f"ssm-tune table {asked[0]} names the commands that make its runs"
        )
    references = References(options.data_root)
    print(atomic_write(options.output, [page(tables, folders, references, options.examples).encode("utf-8")]))
    return 0


class References:
    """The references of records' reported splits, from data on this machine; each data set is read once.

    root: the folder where local data lie now, if not where the runs read them. Data of the hub are not asked for.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self._known: dict[str, dict[str, tuple[str, ...]]] = {}

    def __call__(self, record: Record) -> dict[str, tuple[str, ...]]:
        key = f"{record['hashes']['data']} {record['splits']['report']}"
        if key not in self._known:
            try:
                self._known[key] = self._read(record)
            except UserError as error:
                print(f"no references of {printable(record['cell']['data'])}: {error}", file=sys.stderr)
                self._known[key] = {}
        return self._known[key]

    def _read(self, record: Record) -> dict[str, tuple[str, ...]]:
        from ssm_tune.commands.score import load_data

        data = record["config"].get("data")
        if not isinstance(data, dict) or data.get("source") not in ("sample", "local"):
            raise UserError("the report reads no data from the hub")
        path = data.get("path") if data["source"] == "local" else None
        if self.root is not None and isinstance(path, str):
            path = str(self.root / Path(path).name)
        _, dataset = load_data(record, path)
        return {example.id: tuple(example.references) for example in dataset.splits[record["splits"]["report"]]}


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune report",
        description="Write one HTML file about tables of conf/table: sorted by a press on a heading, filtered by task "
        "and model; behind each score its runs, curves, settings, predictions beside the references, and the command "
        "that repeats it. It needs no network and no other file.",
    )
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help="tables, such as leaderboard leaderboard_mamba2 (default: tiny)"
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
        help="the folder where local data lie now, for the references; default: where the runs read them",
    )
    return parser
