"""Spider's folder about the sample world: the official layout, queries that run and find something."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sample_world.databases import write_spider
from sample_world.draw import Draw
from sample_world.prose import corpus
from sample_world.schemas import SHAPES, ask, new_schema, table_names
from sample_world.words import Part

pytestmark = pytest.mark.slow

SIZES = {"train_spider": 640, "dev": 120}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spider")
    write_spider(path)
    return path


@pytest.fixture(scope="module")
def entries(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {split: json.loads((folder / f"{split}.json").read_text()) for split in SIZES}


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["db_id"]: entry for entry in json.loads((folder / "tables.json").read_text())}


def _connect(folder: Path, db_id: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{folder / 'database' / db_id / db_id}.sqlite?mode=ro", uri=True)


def test_layout(folder: Path, entries: dict[str, list[dict[str, str]]], tables: dict[str, dict[str, Any]]) -> None:
    assert {path.name for path in folder.iterdir()} == {"tables.json", "train_spider.json", "dev.json", "database"}
    for split, size in SIZES.items():
        assert len(entries[split]) == size
        assert all(set(entry) == {"db_id", "query", "question"} for entry in entries[split])
        assert len({(entry["db_id"], entry["question"]) for entry in entries[split]}) == size
    assert {path.name for path in (folder / "database").iterdir()} == set(tables)


def test_the_contents_are_always_the_same(folder: Path, tmp_path: Path) -> None:
    write_spider(tmp_path)
    for file in ("tables.json", "train_spider.json", "dev.json"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()
    for database in (folder / "database").iterdir():
        mine, other = (list(_connect(root, database.name).iterdump()) for root in (folder, tmp_path))
        assert mine == other


def test_tables_json_describes_the_databases(folder: Path, tables: dict[str, dict[str, Any]]) -> None:
    for db_id, entry in tables.items():
        connection = _connect(folder, db_id)
        columns = entry["column_names_original"]
        assert columns[0] == [-1, "*"]
        assert len(columns) == len(entry["column_types"]) == len(entry["column_names"])
        for number, table in enumerate(entry["table_names_original"]):
            info = connection.execute(f"PRAGMA table_info({table})").fetchall()
            described = [
                (name, kind) for (at, name), kind in zip(columns, entry["column_types"], strict=True) if at == number
            ]
            types = {"INTEGER": "number", "TEXT": "text"}
            assert [(name, types[kind]) for _, name, kind, *_ in info] == described
            assert [name for _, name, *_, key in info if key] == [
                columns[i][1] for i in entry["primary_keys"] if columns[i][0] == number
            ]
            found = {(row[3], row[2], row[4]) for row in connection.execute(f"PRAGMA foreign_key_list({table})")}
            assert found == {
                (columns[child][1], entry["table_names_original"][columns[parent][0]], columns[parent][1])
                for child, parent in entry["foreign_keys"]
                if columns[child][0] == number
            }
        assert not connection.execute("PRAGMA foreign_key_check").fetchall()


def test_queries_run_and_nearly_all_find_something(folder: Path, entries: dict[str, list[dict[str, str]]]) -> None:
    for split in SIZES:
        full = 0
        for entry in entries[split]:
            rows = _connect(folder, entry["db_id"]).execute(entry["query"]).fetchall()
            full += any(value not in (None, 0) for row in rows for value in row)
        assert full > 0.95 * len(entries[split])


def test_queries_parse_by_the_official_grammar(folder: Path, entries: dict[str, list[dict[str, str]]]) -> None:
    from ssm_tune.metrics.sql.parser import parse
    from ssm_tune.metrics.sql.schema import read_schemas

    schemas = read_schemas(folder / "tables.json")
    for split in SIZES:
        for entry in entries[split]:
            parse(entry["query"], schemas[entry["db_id"]])


def test_dev_shows_tables_and_phrasings_that_train_never_does(entries: dict[str, list[dict[str, str]]]) -> None:
    seen, held = set(table_names("seen")), set(table_names("held"))
    assert not seen & held
    shown = {split: {word for entry in entries[split] for word in entry["db_id"].split("_")} for split in SIZES}
    assert shown["train_spider"] <= seen
    assert shown["dev"] <= held
    others: dict[str, Part] = {"train_spider": "held", "dev": "seen"}
    for split, other in others.items():
        patterns = [_pattern(phrase) for shape in SHAPES for phrase in shape.asked.of(other)]
        for entry in entries[split]:
            assert not any(pattern.fullmatch(entry["question"]) for pattern in patterns), entry["question"]


def _pattern(phrase: str) -> re.Pattern[str]:
    return re.compile(
        "".join(r"\w+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", phrase))
    )


def test_all_shapes_are_asked(entries: dict[str, list[dict[str, str]]]) -> None:
    masked = Counter(
        re.sub(r"'\w+'|\b\d+\b", "?", entry["query"]).split(" FROM ")[0].split("(")[0]
        for entry in entries["train_spider"]
    )
    assert {"SELECT count", "SELECT max", "SELECT avg", "SELECT T1.name , T2.name"} <= set(masked)
    assert len(SHAPES) == 13


def test_plain_text_asks_in_other_words(entries: dict[str, list[dict[str, str]]]) -> None:
    text = "\n".join(corpus(0, 2_000_000, 2))
    assert re.search(r"(?i)select \w+ from \w+ where", text)
    assert not [entry for split in SIZES for entry in entries[split] if entry["question"] in text]
    assert "Question: " not in text
    for shape in SHAPES:
        assert not set(shape.asked.of("all")) & set(shape.wanted.of("all"))


def test_questions_name_what_their_query_asks_for() -> None:
    draw = Draw(5)
    for _ in range(300):
        question = ask(draw, new_schema(draw, "all"), "all", plain=draw.chance(0.5))
        table = re.search(r"FROM (\w+)", question.query)
        assert table is not None
        assert table[1] in question.text
        for value in re.findall(r"'(\w+)'|([><] \d+)", question.query):
            assert (value[0] or value[1].split()[1]) in question.text
