"""Tables from the hub's files: csv against the standard library, parquet, missing values, what cannot be read."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from ssm_tune.hub.download import read_table
from ssm_tune.utils.errors import UserError


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
def test_csv_against_the_standard_library(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([("first", "second"), *rows])
    with open(path, encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert read_table([path], ["first", "second"]) == expected
    assert read_table([path, path], ["second"]) == 2 * [{"second": second} for _, second in rows]


def test_long_texts_and_missing_values(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": "a", "text": "line\n" * 1_000_000}, {"id": None, "text": ""}]
    (tmp_path / "a.csv").write_text('id,text\n"a","' + rows[0]["text"] + '"\n,""\n')
    (tmp_path / "a.parquet").write_bytes(as_parquet(rows))
    assert read_table([tmp_path / "a.csv"], ["id", "text"]) == rows
    assert read_table([tmp_path / "a.parquet"], ["id", "text"]) == rows


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"id,text\n1,x\n", "a.csv has no column 'summary': it holds id, text"),
        ("a.parquet", as_parquet([{"id": "1"}]), "a.parquet has no column 'summary': it holds id"),
        ("a.parquet", as_parquet([{"summary": "1"}])[:-9], "a.parquet: cannot be read as parquet"),
        ("a.csv", b"id,summary\n1,2,3\n", "a.csv: cannot be read as csv"),
        ("a.csv", b"id,summary\n1,\xff\n", "a.csv: cannot be read as csv"),
        ("a.csv", b"", "a.csv: cannot be read as csv"),
        ("a.txt", b"", "neither .parquet nor .csv"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_table([tmp_path / name], ["summary"])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
