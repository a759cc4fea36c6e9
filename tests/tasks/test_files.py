"""Reading local files: every trap of tab-separated text, and errors that name the place."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ssm_tune.tasks.files import check_counts, check_unquoted, place, read_json_list, read_objects, read_text, read_tsv
from ssm_tune.utils.errors import UserError

NAMES = ("number", "text", "label")
FIELD = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=("Cs",)), max_size=30)
BLANKS_AND_QUOTES = st.text(st.sampled_from(" \"'`\\#,\u00a0\u2028\x85\x0b\x0cé"), max_size=12)
ROWS = st.lists(st.tuples(FIELD, FIELD | BLANKS_AND_QUOTES, BLANKS_AND_QUOTES), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "train.tsv"


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans(), st.booleans())
@example([("1", '"', "x ")], "\n", True, True, True)
def test_tsv_is_read_as_csv_does_without_quoting(
    path: Path, rows: list[tuple[str, str, str]], end: str, bom: bool, header: bool, closed: bool
) -> None:
    lines = ["\t".join(row) for row in ([NAMES, *rows] if header else rows)]
    path.write_bytes((end.join(lines) + end * closed).encode("utf-8-sig" if bom else "utf-8"))
    with open(path, encoding="utf-8-sig") as file:
        oracle = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[int(header) :]
    table = read_tsv(path, ("label", "text"), "", None if header else NAMES)
    assert [fields for _, _, fields in table.rows] == [[row[2], row[1]] for row in oracle]
    assert [fields[::-1] for _, _, fields in table.rows] == [[text, label] for _, text, label in rows]
    assert [index for index, _, _ in table.rows] == list(range(len(rows)))
    assert [line for _, line, _ in table.rows] == list(range(1 + header, 1 + header + len(rows)))
    assert table.short == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("number\ttext\tlabel\n1\ta\t0\n2\tb", r"train\.tsv, line 3: 2 columns, expected 3"),
        ("number\ttext\tlabel\n1\ta\t0\n\n2\tb\t1\n", r"line 3: 1 columns, expected 3"),
        ("number\ttext\tlabel\n1\ta\tb\t0\n", r"line 2: 4 columns, expected 3"),
        ("number\ttext\n", r"line 1: no column 'label' among 'number', 'text'$"),
        ('"number"\t"text"\t"label"\n', r"line 1: no column 'label' .*saved again with quotes"),
        ("", r"train\.tsv is empty$"),
        ("\ufeff\n", r"train\.tsv is empty$"),
    ],
)
def test_tsv_that_is_cut_or_saved_anew_is_refused(content: str, said: str, path: Path) -> None:
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        read_tsv(path, ("label",), "")


def test_short_rows_are_left_out_where_asked_and_counted(path: Path) -> None:
    path.write_text("number\ttext\tlabel\n0\ta\t0\n1\tb\n2\tc\t1\n")
    table = read_tsv(path, ("text",), "", leave_out_short=True)
    assert table.rows == [(0, 2, ["a"]), (2, 4, ["c"])]
    assert table.short == 1
    path.write_text("number\ttext\tlabel\n0\ta\t0\t\n")
    with pytest.raises(UserError, match="line 2: 4 columns"):
        read_tsv(path, ("text",), "", leave_out_short=True)


def test_missing_folders_and_other_encodings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.tsv is missing: the folder holds nothing"):
        read_text(tmp_path / "x.tsv", "the folder holds nothing")
    (tmp_path / "x.tsv").write_bytes("a\tü".encode("latin-1"))
    with pytest.raises(UserError, match=r"x\.tsv is not UTF-8 \(byte 2\)"):
        read_text(tmp_path / "x.tsv", "")
    with pytest.raises(UserError, match="is missing"):
        read_text(tmp_path / "x.tsv" / "below.tsv", "")
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path, "")


def test_a_byte_order_mark_is_kept_or_left_out(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\n")
    assert read_text(file, "") == "\ufeffa\r\n"
    assert read_text(file, "", bom=False) == "a\r\n"


@given(st.lists(st.tuples(FIELD, FIELD).map('"'.join), min_size=1, max_size=6), st.lists(FIELD, max_size=3))
def test_a_file_that_a_table_program_saved_is_told_from_the_original(
    path: Path, with_quotes: list[str], others: list[str]
) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([text, "1"] for text in with_quotes + others)
    saved = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").split("\n") if line]
    with pytest.raises(UserError, match=r"saved again with quotes \(\d+ fields"):
        check_unquoted(path, saved)
    check_unquoted(path, [*saved, 'He said "no" .'])  # one field as only an original has it
    check_unquoted(path, [text for text in others if '"' not in text])


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=8) | st.integers(), max_size=3), max_size=6),
    st.sampled_from([None, 0, 2]),
    st.data(),
)
def test_the_place_of_an_entry_is_its_line(
    path: Path, entries: list[dict[str, Any]], indent: int | None, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(entries)))
    entries.insert(number, {"marked": "here \u2713"})
    path.write_text(" \n" + json.dumps(entries, indent=indent), encoding="utf-8")
    found = re.fullmatch(rf"{path}, line (\d+), entry {number + 1}", place(path, number))
    assert found is not None
    lines = path.read_text().split("\n")
    at = next(n for n, line in enumerate(lines, start=1) if "here \\u2713" in line)
    assert int(found[1]) == (at if indent is None else at - 1)  # "{" stands on the line before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"id": "1",\n "text": "x"\n "more": 1}]', r"train\.tsv, line 3: not valid JSON"),
        ('{"id": "1"}', r"line 1: expected a JSON list of things, got a dict"),
        ('[{"id": "1"},\n\n {"id": 2}]', r"line 3, entry 2: expected an object with the texts id$"),
        ('["text"]', r"line 1, entry 1: expected an object"),
        ("[" * 100_000, r"JSON that cannot be read"),
        ("[1" + "0" * 5000 + "]", r"JSON that cannot be read"),
        ("\ufeff[]", r"line 1: not valid JSON \(Unexpected UTF-8 BOM"),
    ],
)
def test_json_errors_name_the_place(content: str, said: str, path: Path) -> None:
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_objects(path, ("id",), "", "things")


def test_a_list_is_returned_as_it_stands(path: Path) -> None:
    path.write_text("[1, null]")
    assert read_json_list(path, "", "things") == [1, None]


def test_every_difference_from_the_published_counts_is_named() -> None:
    found = {"train rows": 30, "val rows": 5, "more": 1}
    check_counts("here", "X", found, {"train rows": 30, "val rows": 5}, "do that")
    with pytest.raises(UserError) as caught:
        check_counts("here", "X", found, {"train rows": 14_732, "val rows": 5, "val pairs": 2}, "do that")
    assert str(caught.value) == (
        "here is not the published X: train rows 30 instead of 14,732, val pairs 0 instead of 2; do that"
    )
