"""Texts from records and files, written so that each format shows them and does nothing else with them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from ssm_tune.utils.text import printable

NOTHING = "-"
"""What stands where there is no number."""
_TEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def markdown_text(text: str) -> str:
    """Markdown that shows ``text`` as it is: no emphasis, link, table cell, math or HTML begins in it."""
    return "".join(f"\\{c}" if c in "\\|*_<`[&~$" else c for c in printable(text))


def tex_text(text: str) -> str:
    """LaTeX that shows ``text`` as it is."""
    return "".join(_TEX.get(c) or (f"\\{c}" if c in "&%$#_{}" else c) for c in printable(text))


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with a first line of names. Numbers are written whole, null as nothing.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_field(value) for value in row] for row in rows])
    return text.getvalue()


def _field(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    text = printable(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
