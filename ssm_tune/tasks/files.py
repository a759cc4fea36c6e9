"""Readers of local data files. An invalid file is a UserError of one line that names the file and the place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_bytes

ACCEPT = "to run on it as a data set of its own, add data.check=off"
HUB_CHANGED = "the hub's copy has changed: name another commit with task.revision=COMMIT, or use data=local"
BOM = "\ufeff"


def read_text(path: Path, holds: str, bom: bool = True) -> str:
    """A UTF-8 text, line ends as they are; a byte order mark at its start is left out unless ``bom``.

    holds: what the folder should hold, for the message. Raises UserError for a missing or misencoded file.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} is missing: {holds}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from error
    return text if bom else text.removeprefix(BOM)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text, without their ends and a byte order mark; \\u2028 and the like end none.

    Raises UserError for a missing or misencoded file.
    """
    try:
        text = read_bytes(path).decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def read_json_list(path: Path, holds: str, of: str) -> list[Any]:
    """A file that is one JSON list. of: what its entries are. Raises UserError."""
    entries = parse_json(read_text(path, holds), path)
    if not isinstance(entries, list):
        raise UserError(f"{path}, line 1: expected a JSON list of {of}, got a {type(entries).__name__}")
    if not entries:
        raise UserError(f"{path} is an empty list, expected {of}")
    check_unicode(entries, str(path))
    return entries


def parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        raise UserError(f"{path}: JSON that cannot be read ({error})") from error


def check_unicode(value: Any, place: str) -> None:
    """Raise UserError where a text of a JSON value is not valid Unicode: an escape can spell half of a pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(error.object[error.start]):04X}"
        raise UserError(f"{place}: a text is not valid Unicode (a lone surrogate, {code})") from error


def read_objects(path: Path, columns: Sequence[str], holds: str, of: str) -> list[dict[str, Any]]:
    """A file that is one JSON list of objects in which every one of ``columns`` is a text. Raises UserError."""
    entries = read_json_list(path, holds, of)
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(column), str) for column in columns):
            raise UserError(f"{place(path, number)}: expected an object with the texts {', '.join(columns)}")
    return entries


def place(path: Path, number: int) -> str:
    """The file, line and number of entry ``number`` (from 0) of a JSON list, for a message."""
    text, decoder = path.read_text(encoding="utf-8"), json.JSONDecoder()
    start = _blanks(text, text.index("[") + 1)
    for _ in range(number):
        _, end = decoder.raw_decode(text, start)
        start = _blanks(text, _blanks(text, end) + 1)  # over the comma
    line = text.count("\n", 0, start) + 1
    return f"{path}, line {line}, entry {number + 1}"


def _blanks(text: str, start: int) -> int:
    while text[start] in " \t\n\r":
        start += 1
    return start


@dataclass(frozen=True)
class Table:
    """rows: (index among all data rows from 0, line from 1, the asked fields); short: how many rows were left out."""

    rows: list[tuple[int, int, list[str]]]
    short: int


def read_tsv(
    path: Path, columns: Sequence[str], holds: str, header: Sequence[str] | None = None, leave_out_short: bool = False
) -> Table:
    """The ``columns`` of a tab-separated file in which quotes are ordinary characters and blanks are kept.

    header: the names of a headerless file's columns; None where the file's first line names them.
    leave_out_short: rows with too few fields are counted and left out, instead of refused.
    Raises UserError for an empty file, for a missing column and for a row of another width, with its line.
    """
    # the three line ends of Python's own text files, and no others: U+2028 and the like are text
    lines = re.split(r"\r\n|\n|\r", read_text(path, holds, bom=False))
    if lines[-1] == "":
        lines.pop()
    if not any(lines):
        raise UserError(f"{path} is empty")
    first = 0 if header else 1
    names = list(header) if header else lines[0].split("\t")
    for column in columns:
        if column not in names:
            quoted = " (the file was saved again with quotes)" if f'"{column}"' in names else ""
            there = ", ".join(map(repr, names))[:200]
            raise UserError(f"{path}, line 1: no column {column!r} among {there}{quoted}")
    wanted = [names.index(column) for column in columns]
    rows, short = [], 0
    for index, line in enumerate(lines[first:]):
        fields = line.split("\t")
        if len(fields) < len(names) and leave_out_short:
            short += 1
            continue
        if len(fields) != len(names):
            raise UserError(
                f"{path}, line {index + first + 1}: {len(fields)} columns, expected {len(names)}; "
                "the file is cut off, or was saved again with other separators"
            )
        rows.append((index, index + first + 1, [fields[one] for one in wanted]))
    if not rows:
        raise UserError(f"{path} has no rows")
    return Table(rows, short)


def check_unquoted(path: Path, texts: Iterable[str]) -> None:
    """Raise UserError where a spreadsheet program put quotes around every field with a quote in it, and doubled those.

    Official files have quotes too, but theirs are text: some field opens with one and closes with none.
    """
    quoted = [text for text in texts if '"' in text]
    if quoted and all(re.fullmatch(r'"(?:[^"]|"")*""(?:[^"]|"")*"', text) for text in quoted):
        raise UserError(
            f"{path} was saved again with quotes ({len(quoted)} fields, such as {quoted[0][:40]!r}): take the official "
            f"file; {ACCEPT}"
        )


def check_counts(where: str, title: str, found: Mapping[str, int], expected: Mapping[str, int], remedy: str) -> None:
    """Raise UserError that names every count of ``expected`` that ``found`` does not have."""
    differ = [f"{what} {found.get(what, 0):,} instead of {n:,}" for what, n in expected.items() if found.get(what) != n]
    if differ:
        raise UserError(f"{where} is not the published {title}: {', '.join(differ)}; {remedy}")
