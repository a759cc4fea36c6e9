"""Spider's real questions, schemas and databases, for the tests that use them."""

import json
from pathlib import Path

import pytest
from helpers.toy_spider import make_database

from ssm_tune.metrics.sql import Database, find_databases, find_schema, read_schemas


@pytest.fixture
def music(tmp_path: Path) -> Database:
    return make_database(tmp_path / "databases")


@pytest.fixture
def dev(shared: Path) -> list[dict]:
    """The 1,034 questions of dev.json."""
    return json.loads((shared / "data" / "spider" / "dev.json").read_text(encoding="utf-8"))


@pytest.fixture
def dev_databases(shared: Path, dev: list[dict]) -> list[Database]:
    """The database of each, with made-up rows."""
    schemas = read_schemas(shared / "data" / "spider" / "tables.json")
    folder = shared / "data" / "spider_small" / "database"
    paths = find_databases(folder, {one["db_id"] for one in dev})
    return [Database(one["db_id"], find_schema(schemas, one["db_id"]), paths[one["db_id"]]) for one in dev]
