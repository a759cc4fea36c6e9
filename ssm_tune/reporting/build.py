"""A results folder's tables/ and figures/, made from its records alone; and whether those there are current."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssm_tune.records.schema import Record
from ssm_tune.reporting import figure_data, paired_tables
from ssm_tune.reporting.export_formats import latex, records_csv, table_csv
from ssm_tune.reporting.planned_table import fill
from ssm_tune.reporting.published import Published
from ssm_tune.reporting.render import markdown, text_table
from ssm_tune.reporting.run_tables import tables_from_records
from ssm_tune.reporting.table import Table
from ssm_tune.reporting.table_spec import load_table_spec, table_names
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, read_bytes

Found = Sequence[tuple[Path, Record]]
ALL = "tasks"
"""The name of the file with every table of one task, data, model and protocol."""
FOLDERS = {".md": "tables", ".tex": "tables", ".csv": "tables", ".png": "figures", ".svg": "figures"}
PICTURES = (".png", ".svg")


@dataclass(frozen=True)
class Built:
    """files: contents by path below the results folder; missing: commands that would fill gaps, by table."""

    files: dict[str, bytes]
    missing: dict[str, tuple[str, ...]]


def planned_tables(found: Found, names: Sequence[str] | None = None) -> list[Table]:
    """The tables of conf/table (or the named ones) that have any record."""
    records, folders = [record for _, record in found], {id(record): path.parent for path, record in found}
    filled = [fill(load_table_spec(name), records, folders) for name in names or table_names()]
    return [table for table in filled if not table.empty]


def build(found: Found, published: Published | None = None, pictures: bool = True) -> Built:
    """Everything that ``make tables`` writes. Without ``pictures`` their data alone, which takes no matplotlib.

    Raises:
        UserError: two records of one run disagree, or a run's steps are missing or damaged.
    """
    agreeing(found)
    records = [record for _, record in found]
    files: dict[str, bytes] = {}
    if records:
        plain = [markdown(text_table(table)) for table in tables_from_records(records)]
        files[f"tables/{ALL}.md"] = "\n".join(plain).encode()
        files[f"tables/{ALL}.csv"] = records_csv(records).encode()
    missing = {}
    for table in planned_tables(found):
        name, shown = table.spec.name, text_table(table, published)
        missing[name] = table.missing
        files[f"tables/{name}.md"] = markdown(shown).encode()
        files[f"tables/{name}.tex"] = latex(shown).encode()
        files[f"tables/{name}.csv"] = table_csv(table).encode()
        folders = {id(record): path.parent for path, record in found}
        if table.spec.compare is not None:
            files |= {
                f"tables/{name}-compare.{kind}": made for kind, made in paired_tables.tables(table, folders).items()
            }
        files |= _figures(table, folders, pictures)
    return Built(files, missing)


def _figures(table: Table, folders: figure_data.Folders, pictures: bool) -> dict[str, bytes]:
    """The figures of one table and the numbers that they are drawn from."""
    makers: dict[str, Callable[[], list[figure_data.Series]]] = {
        "parameters": lambda: figure_data.parameters(table),
        "loss": lambda: figure_data.losses(table, folders),
        "scores": lambda: figure_data.scores(table),
        "cost": lambda: figure_data.costs(table),
        "pareto": lambda: figure_data.pareto(table),
    }
    if table.spec.summary:  # whose report has the curves
        makers = {"pareto": makers["pareto"]}
    files: dict[str, bytes] = {}
    for kind, make in makers.items():
        series = make()
        if not series:
            continue
        files[f"figures/{table.spec.name}-{kind}.csv"] = figure_data.as_csv(series).encode()
        if pictures:
            from ssm_tune.reporting import pareto_figure, table_figures

            images = pareto_figure.draw(table, series) if kind == "pareto" else table_figures.draw(kind, table, series)
            for suffix, image in images.items():
                files[f"figures/{table.spec.name}-{kind}.{suffix}"] = image
    return files


def agreeing(found: Found) -> None:
    """Raises UserError for two records of one run whose scores differ, with both paths."""
    seen: dict[str, tuple[Path, Record]] = {}
    for path, record in found:
        key = record.get("cell_hash")
        if not isinstance(key, str):
            continue
        before = seen.setdefault(key, (path, record))
        if before[1]["metrics"] != record["metrics"] or before[1]["status"] != record["status"]:
            raise UserError(
                f"two records of one run disagree: {before[0]} and {path}; move one of them out of the results folder"
            )


def write(results: Path, built: Built) -> list[str]:
    """Write what differs from what stands there, each file whole; returns the paths that were written.

    Files of a table that no longer is are left alone: see ``stale``.
    """
    written = []
    for name, content in sorted(built.files.items()):
        path = results / name
        if not path.is_file() or read_bytes(path) != content:
            atomic_write(path, [content])
            written.append(name)
    return written


def differences(results: Path, built: Built) -> list[str]:
    """What stands in ``results`` and is not what the records give: one line each, none if all is current.

    A picture's bytes hang on the library that drew it: they are compared only where the same versions draw here, else
    its data, the CSV of its name, speak for it.
    """
    found = []
    for name, content in sorted(built.files.items()):
        path = results / name
        if not path.is_file():
            found.append(f"{path} is missing")
            continue
        there = read_bytes(path)
        if there != content and not (path.suffix in PICTURES and _drawn_by(there) != _drawn_by(content)):
            found.append(f"{path} is not what the records give")
    found += [f"{path} is of no table that the records give" for path in stale(results, built)]
    return found


def drawn_elsewhere(results: Path, built: Built) -> int:
    """How many pictures other versions drew, so that their data alone were compared."""
    names = [name for name in built.files if Path(name).suffix in PICTURES and (results / name).is_file()]
    return sum(_drawn_by(read_bytes(results / name)) != _drawn_by(built.files[name]) for name in names)


def stale(results: Path, built: Built) -> list[Path]:
    """Files in the two folders that the records do not give any more, or that somebody else put there."""
    there = [path for folder in sorted(set(FOLDERS.values())) for path in sorted((results / folder).glob("*.*"))]
    return [path for path in there if path.suffix in FOLDERS and f"{path.parent.name}/{path.name}" not in built.files]


def _drawn_by(image: bytes) -> bytes | None:
    """The versions that pictures.engine wrote into a picture."""
    found = re.search(rb"matplotlib [\w.+]+, FreeType [\w.+]+, Pillow [\w.+]+", image)
    return found[0] if found else None
