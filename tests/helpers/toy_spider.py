"""A small database of singers and songs, its entry in tables.json, and both as the metrics want them."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from ssm_tune.metrics.sql import Database, Schema

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"

COLUMNS = {
    "Singer": ["Singer_ID", "Name", "Age", "Country"],
    "Song": ["Song_ID", "Singer_ID", "Title", "Year", "Sales"],
}
SINGERS = [(1, "Ann", 30, "France"), (2, "Bob", 40, "Spain"), (3, "Cid", 20, "France"), (4, "Dan", 40, None)]
SONGS = [(1, 1, "Rain", 2001, 10.5), (2, 1, "Sun", 2005, 20.0), (3, 2, "Rain", 2005, 5.25), (4, 3, "Sea", 2010, 7.5)]

ENTRY = {
    "db_id": "music",
    "table_names_original": list(COLUMNS),
    "column_names_original": [
        [-1, "*"],
        *([place, name] for place, names in enumerate(COLUMNS.values()) for name in names),
    ],
    "column_types": ["text", "number", "text", "number", "text", "number", "number", "text", "number", "number"],
    "primary_keys": [1, 5],
    "foreign_keys": [[6, 1]],
}

SCHEMA = Schema(
    "music",
    tuple(COLUMNS),
    tuple((table, name) for table, name in ENTRY["column_names_original"]),
    tuple(ENTRY["column_types"]),
    (1, 5),
    ((6, 1),),
)


def make_database(folder: Path) -> Database:
    """``folder``/music/music.sqlite with its rows."""
    path = folder / "music" / "music.sqlite"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE Singer (Singer_ID INTEGER PRIMARY KEY, Name TEXT, Age INTEGER, Country TEXT)")
        connection.execute(
            "CREATE TABLE Song (Song_ID INTEGER PRIMARY KEY, Singer_ID INTEGER, Title TEXT, Year INTEGER, Sales REAL, "
            "FOREIGN KEY (Singer_ID) REFERENCES Singer(Singer_ID))"
        )
        connection.executemany("INSERT INTO Singer VALUES (?, ?, ?, ?)", SINGERS)
        connection.executemany("INSERT INTO Song VALUES (?, ?, ?, ?, ?)", SONGS)
        connection.commit()
    return Database("music", SCHEMA, path)


def state(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
