"""One table printer for all benchmarks: a row is shown as soon as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

Row = dict[str, Any]
"""What was measured, under the names that the JSON output has. "failed": why a row could not be measured."""


class Table:
    """A table of right-aligned columns. columns: title to width in characters."""

    def __init__(self, columns: Mapping[str, int]) -> None:
        self.columns = columns

    def titles(self) -> str:
        return self.line(dict(zip(self.columns, self.columns, strict=True)))

    def line(self, cells: Mapping[str, str], note: str = "") -> str:
        """One line: a "-" for each column that ``cells`` leaves out, then the note.

        Raises KeyError for a cell of no column.
        """
        if unknown := cells.keys() - self.columns.keys():
            raise KeyError(f"there is no column {sorted(unknown)}")
        line = " ".join(f"{cells.get(title, '-'):>{width}}" for title, width in self.columns.items())
        return f"{line}  {note}" if note else line

    def print(self, about: str, rows: Iterable[Row], line: Callable[[Row], str], file: TextIO) -> list[Row]:
        """Print what was measured, the titles, and a line for each of the rows; returns the rows."""
        print(*filter(None, [about, self.titles()]), sep="\n", file=file, flush=True)
        printed = []
        for row in rows:
            printed.append(row)
            print(line(row), file=file, flush=True)
        return printed
