"""Published values, from a file of the user's, to stand beside ours. None comes with the program."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.reporting.table import Table
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_bytes
from ssm_tune.utils.yaml_files import read_yaml

COLUMNS = ("table", "method", "task", "value")


@dataclass(frozen=True)
class Published:
    """values: by (table, row, column, metric or ""), in points as papers print them."""

    path: Path
    values: dict[tuple[str, str, str, str], float]

    @property
    def note(self) -> str:
        return f"published: from {self.path.name}, in points; difference: ours - published"

    def of(self, table: Table) -> dict[tuple[str, str, str], float]:
        """The values of one table by (row, column, metric). Raises UserError for a name that the table lacks."""
        found = {}
        heads = {head.column.name: head for head in table.heads}
        rows = [row.label for row in table.rows]
        for (name, row, column, metric), value in self.values.items():
            if name != table.spec.name:
                continue
            if row not in rows:
                raise UserError(f"{self.path}: the table {name} has no row {row!r}; it has {', '.join(rows)}")
            if column not in heads:
                raise UserError(f"{self.path}: the table {name} has no column {column!r}; it has {', '.join(heads)}")
            shown = heads[column].show
            if metric and metric not in shown:
                raise UserError(f"{self.path}: {name}, {column} does not show {metric!r}; it shows {', '.join(shown)}")
            found[row, column, metric or shown[0]] = value
        return found


def read_published(path: Path) -> Published:
    """A yaml of table: {method: {task: value}} (or task: {metric: value}), or a csv with COLUMNS and maybe metric.

    Raises:
        UserError: the file cannot be read, or a value is no number of points.
    """
    rows = _from_csv(path) if path.suffix == ".csv" else _from_yaml(path)
    values: dict[tuple[str, str, str, str], float] = {}
    for *place, value in rows:
        table, row, column, metric = (str(part) for part in place)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not -100 <= number <= 100:
            raise UserError(f"{path}: {table}, {row}, {column}: {value!r} is no number of points (-100 to 100)")
        if (table, row, column, metric) in values:
            raise UserError(f"{path}: {table}, {row}, {column} stands there twice")
        values[table, row, column, metric] = number
    if not values:
        raise UserError(f"{path} holds no value: a line a value, under {', '.join(COLUMNS)}, or yaml (docs/results.md)")
    return Published(path, values)


def _from_csv(path: Path) -> Iterator[tuple[Any, ...]]:
    reader = csv.DictReader(io.StringIO(_text(path)))
    lacking = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
    if lacking:
        raise UserError(f"{path}: the first line must name the columns {', '.join(COLUMNS)}; no {lacking[0]} there")
    for row in reader:
        yield row["table"], row["method"], row["task"], row.get("metric") or "", row["value"]


def _from_yaml(path: Path) -> Iterator[tuple[Any, ...]]:
    for table, rows in _pairs(path, read_yaml(path), "the file"):
        for row, columns in _pairs(path, rows, table):
            for column, value in _pairs(path, columns, f"{table}, {row}"):
                if isinstance(value, dict):
                    for metric, number in value.items():
                        yield table, row, column, metric, number
                else:
                    yield table, row, column, "", value


def _pairs(path: Path, section: Any, what: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(section, dict):
        raise UserError(f"{path}: {what} must hold names with values, got {section!r} (docs/results.md shows the form)")
    yield from ((str(key), value) for key, value in section.items())


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8") from error
