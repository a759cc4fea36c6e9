"""Schemas and database files, whole and broken."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from helpers.toy_spider import ENTRY, SCHEMA, state

from ssm_tune.metrics.sql import Database, find_databases, find_schema, read_schemas
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
        (b"[" + b"9" * 10_000 + b"]", "not JSON"),
        (json.dumps([{**ENTRY, "primary_keys": [1e999]}]).encode(), "entry 1"),
        (json.dumps([{**ENTRY, "table_names_original": ["\ud800", "b"]}]).encode(), "entry 1"),
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


def test_find_databases(music: Database, tmp_path: Path) -> None:
    assert find_databases(tmp_path / "databases", ["music"]) == {"music": music.path}
    with pytest.raises(UserError, match=r"'films'.*films\.sqlite is missing"):
        find_databases(tmp_path / "databases", ["films"])


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
        find_databases(tmp_path / "databases", ["music"])
    assert "\n" not in str(caught.value)
    assert str(music.path) in str(caught.value)
    assert [path.name for path in music.path.parent.iterdir()] == ["music.sqlite"]


def test_a_schema_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd" / "odd.sqlite"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE abc (a)")
        connection.commit()
    path.write_bytes(path.read_bytes().replace(b"abc", b"a\xffc"))
    with pytest.raises(UserError, match="not UTF-8") as caught:
        find_databases(tmp_path, ["odd"])
    assert str(path) in str(caught.value)


def rows_in_the_log(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("INSERT INTO singer SELECT 99, name, age, country FROM singer LIMIT 1")
    connection.commit()
    copied = {file: file.read_bytes() for file in path.parent.iterdir()}
    connection.close()
    for file, content in copied.items():
        file.write_bytes(content)


def a_hot_journal(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("UPDATE singer SET name = hex(zeroblob(20000))")
    copied = {file: file.read_bytes() for file in path.parent.iterdir()}
    connection.execute("ROLLBACK")
    connection.close()
    for file, content in copied.items():
        file.write_bytes(content)


@pytest.mark.parametrize(("leave", "suffix"), [(rows_in_the_log, "-wal"), (a_hot_journal, "-journal")])
@pytest.mark.parametrize("linked", [False, True])
def test_rows_beside_the_file_are_not_passed_over(
    music: Database, tmp_path: Path, leave: Callable[[Path], None], suffix: str, linked: bool
) -> None:
    assert music.path is not None
    leave(music.path)
    before = state(tmp_path)
    folder = tmp_path / "databases"
    if linked:
        folder = tmp_path / "links"
        (folder / "music").mkdir(parents=True)
        (folder / "music" / "music.sqlite").symlink_to(music.path)
        before = state(tmp_path)
    with pytest.raises(UserError, match=f"music.sqlite{suffix}"):
        find_databases(folder, ["music"])
    assert state(tmp_path) == before


@pytest.mark.parametrize("mode", ["PERSIST", "TRUNCATE", "WAL"])
def test_what_a_finished_transaction_leaves_is_no_reason_to_refuse(music: Database, tmp_path: Path, mode: str) -> None:
    assert music.path is not None
    with closing(sqlite3.connect(music.path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("DELETE FROM singer WHERE age > 39")
        connection.commit()
    assert find_databases(tmp_path / "databases", ["music"])


def test_generated_columns_are_not_computed(tmp_path: Path) -> None:
    """A row of this table takes minutes to compute; the file is readable all the same."""
    path = tmp_path / "heavy" / "heavy.sqlite"
    path.parent.mkdir()
    # compares 2e11 pairs of bytes: no handler of SQLite's is called meanwhile
    stubborn = "instr(printf('%.*c', 900000, 'a'), printf('%.*c', 450000, 'a') || 'b')"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute(f"ALTER TABLE t ADD COLUMN b AS ({' + '.join([stubborn] * 30)})")
        connection.commit()
    assert find_databases(tmp_path, ["heavy"]) == {"heavy": path}


def test_all_schemas(shared: Path) -> None:
    schemas = read_schemas(shared / "data" / "spider" / "tables.json")
    assert len(schemas) == 166
    assert sum(len(one.tables) for one in schemas.values()) == 876
