"""Spider's official folder about the sample world: questions, schemas and real SQLite databases."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from .draw import Draw
from .schemas import Table, ask, new_schema, table_names
from .words import Part

# databases, questions for each, seed and words of each split
_SPLITS: dict[str, tuple[int, int, int, Part]] = {
    "train_spider": (20, 32, 3701, "seen"),
    "dev": (6, 20, 3802, "held"),
}


def write_spider(folder: Path) -> None:
    """Write tables.json, train_spider.json, dev.json and database/DB_ID/DB_ID.sqlite into an existing, empty folder.

    The contents are always the same. Databases of dev have tables that no database of train has, and their questions
    are phrased in other ways.
    """
    descriptions = []
    for split, (databases, questions, seed, part) in _SPLITS.items():
        draw = Draw(seed)
        entries: list[dict[str, str]] = []
        for db_id, schema in _schemas(draw, databases, part).items():
            descriptions.append(_description(db_id, schema))
            _write_database(folder / "database" / db_id / f"{db_id}.sqlite", schema)
            entries += _entries(draw, db_id, schema, questions, part)
        _write_json(folder / f"{split}.json", entries)
    _write_json(folder / "tables.json", descriptions)


def _schemas(draw: Draw, count: int, part: Part) -> dict[str, list[Table]]:
    """Databases of one to three tables by their ids; no table name stands in two."""
    names = draw.shuffled(table_names(part))
    schemas = {}
    for i in range(count):
        size = min(1 + i % 3, len(names) - (count - 1 - i))
        tables, names = names[:size], names[size:]
        schemas["_".join(tables)] = new_schema(draw, part, tuple(tables))
    return schemas


def _entries(draw: Draw, db_id: str, schema: list[Table], count: int, part: Part) -> list[dict[str, str]]:
    known: dict[str, str] = {}
    while len(known) < count:
        question = ask(draw, schema, part)
        known.setdefault(question.text, question.query)
    return [{"db_id": db_id, "query": query, "question": text} for text, query in known.items()]


def _description(db_id: str, schema: list[Table]) -> dict[str, Any]:
    """The database as tables.json describes it."""
    original: list[tuple[int, str]] = [(-1, "*")]
    types = ["text"]
    for i, table in enumerate(schema):
        original += [(i, column) for column in table.columns]
        types += table.columns.values()
    index = {column: number for number, column in enumerate(original)}
    keys = [[index[i, f"{t.parent}_id"], index[0, "id"]] for i, t in enumerate(schema) if t.parent]
    return {
        "db_id": db_id,
        "table_names_original": [table.name for table in schema],
        "table_names": [table.name for table in schema],
        "column_names_original": [list(column) for column in original],
        "column_names": [[i, column.replace("_", " ")] for i, column in original],
        "column_types": types,
        "primary_keys": [index[i, "id"] for i in range(len(schema))],
        "foreign_keys": keys,
    }


def _write_database(path: Path, schema: list[Table]) -> None:
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    try:
        for table in schema:
            columns = [f"{name} {'INTEGER' if kind == 'number' else 'TEXT'}" for name, kind in table.columns.items()]
            columns.append("PRIMARY KEY (id)")
            if table.parent:
                columns.append(f"FOREIGN KEY ({table.parent}_id) REFERENCES {table.parent}(id)")
            connection.execute(f"CREATE TABLE {table.name} ({', '.join(columns)})")
            marks = ", ".join("?" * len(table.columns))
            rows = [[row[column] for column in table.columns] for row in table.rows]
            connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
        connection.commit()
    finally:
        connection.close()


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
