"""Schemas and database files, whole and broken."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.toy_spider import ENTRY, SCHEMA

from ssm_tune.metrics.sql import Database, find_database, find_schema, read_schemas, schema_of_database
from ssm_tune.utils.errors import UserError


def test_read_schemas(tmp_path: Path) -> None:
    path = tmp_path / "tables.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([ENTRY]).encode())
    assert read_schemas(path) == {"music": SCHEMA}
    assert SCHEMA.columns_of["song"] == ("song_id", "singer_id", "title", "year", "sales")
    assert SCHEMA.folded == {"singer.singer_id": "singer.singer_id", "song.singer_id": "singer.singer_id"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no .*tables.json"),
        (b"", "not JSON, or is cut short"),
        (json.dumps([ENTRY]).encode()[:200], "cut short"),
        (b'[{"db_id": "caf\xe9"}]', "not UTF-8"),
        (b"{}", "one list"),
        (b"[" * 100_000, "not JSON"),
        (b"[3]", "entry 1"),
        (json.dumps([ENTRY, {**ENTRY, "db_id": 7}]).encode(), "entry 2"),
        (json.dumps([ENTRY, ENTRY]).encode(), "two schemas for db_id 'music'"),
        (json.dumps([{**ENTRY, "foreign_keys": [[1, 99]]}]).encode(), "entry 1 .*key"),
        (json.dumps([{**ENTRY, "table_names_original": ["a"]}]).encode(), "entry 1 .*table"),
        (json.dumps([{**ENTRY, "column_types": []}]).encode(), "entry 1 .*types"),
        (json.dumps([{key: ENTRY[key] for key in ENTRY if key != "primary_keys"}]).encode(), "entry 1 .*primary_keys"),
    ],
)
def test_broken_tables_json(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "tables.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_schemas(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_db_id() -> None:
    assert find_schema({"music": SCHEMA}, "music") == SCHEMA
    with pytest.raises(UserError, match=r"'films'.*has 1 \(music\)"):
        find_schema({"music": SCHEMA}, "films")


def test_find_database(music: Database, tmp_path: Path) -> None:
    assert find_database(tmp_path / "databases", "music") == music.path
    with pytest.raises(UserError, match=r"'films'.*films\.sqlite is missing"):
        find_database(tmp_path / "databases", "films")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: b"", "empty"),
        (lambda whole: b"not a database" * 100, "no SQLite database"),
        (lambda whole: whole[:50], "no SQLite database"),
        (lambda whole: whole[: len(whole) - 512], "cut short"),
        (lambda whole: whole[:4096], "cut short"),
        (lambda whole: whole[:100] + b"\xff" * (len(whole) - 100), "SQLite cannot read it"),
        (lambda whole: whole[:4096] + b"\xff" * (len(whole) - 4096), "SQLite cannot read it"),
    ],
)
def test_broken_databases(music: Database, tmp_path: Path, damage, message: str) -> None:
    assert music.path is not None
    music.path.write_bytes(damage(music.path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        find_database(tmp_path / "databases", "music")
    assert "\n" not in str(caught.value)
    assert str(music.path) in str(caught.value)
    assert [path.name for path in music.path.parent.iterdir()] == ["music.sqlite"]


def test_schema_of_database(music: Database, tmp_path: Path) -> None:
    assert music.path is not None
    assert schema_of_database(music.path, "music") == SCHEMA
    with pytest.raises(UserError, match="cannot read"):
        schema_of_database(tmp_path / "none.sqlite", "none")


def test_foreign_keys_without_a_column_or_a_table(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE child (a INT REFERENCES Parent, b INT REFERENCES nowhere(x))")
        connection.execute("CREATE TABLE parent (id INT PRIMARY KEY)")
        connection.commit()
    assert schema_of_database(path, "keys").foreign_keys == ((1, 3),)


def test_declared_schemas_are_those_of_tables_json(shared: Path, dev_databases: list[Database]) -> None:
    for database in {one.db_id: one for one in dev_databases}.values():
        assert database.path is not None
        declared = schema_of_database(database.path, database.db_id)
        # SQLite's own table of counters is in tables.json where a database has one
        expected = {table: names for table, names in database.schema.columns_of.items() if table != "sqlite_sequence"}
        assert declared.columns_of == expected


def test_all_schemas(shared: Path) -> None:
    schemas = read_schemas(shared / "data" / "spider" / "tables.json")
    assert len(schemas) == 166
    assert sum(len(one.tables) for one in schemas.values()) == 876
