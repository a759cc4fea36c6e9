"""Tables, columns and keys of a database: what Spider's tables.json says."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ssm_tune.utils.errors import UserError


@dataclass(frozen=True)
class Schema:
    """One entry of tables.json, names as written there.

    columns: (index of the table, name); the first is (-1, "*"). types, primary_keys and foreign_keys speak of
    columns by their place in it; a foreign key is (column, the column it refers to).
    """

    db_id: str
    tables: tuple[str, ...]
    columns: tuple[tuple[int, str], ...]
    types: tuple[str, ...] = ()
    primary_keys: tuple[int, ...] = ()
    foreign_keys: tuple[tuple[int, int], ...] = ()

    @cached_property
    def columns_of(self) -> dict[str, tuple[str, ...]]:
        """Lower-case names of the columns of every table, by its lower-case name."""
        found: dict[str, list[str]] = {table.lower(): [] for table in self.tables}
        for table, name in self.columns:
            if table >= 0:
                found[self.tables[table].lower()].append(name.lower())
        return {table: tuple(names) for table, names in found.items()}

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """ "table.column" in lower case for every place in ``columns``, "*" for the first."""
        return tuple(
            f"{self.tables[table].lower()}.{name.lower()}" if table >= 0 else "*" for table, name in self.columns
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that may stand for something: "*", "table" and "table.column", in lower case."""
        return frozenset(self.columns_of) | frozenset(self.column_names) | {"*"}

    @cached_property
    def folded(self) -> dict[str, str]:
        """For each column in a foreign key, the first column of its group: columns a join makes equal.

        Pairs are merged greedily, in their order: a pair joins the first group that shares a column with it, and
        two groups that a later pair connects stay two. That is the official evaluator's way.
        """
        groups: list[set[int]] = []
        for pair in self.foreign_keys:
            group = next((one for one in groups if not one.isdisjoint(pair)), None)
            if group is None:
                groups.append(group := set())
            group.update(pair)
        return {self.column_names[place]: self.column_names[min(group)] for group in groups for place in sorted(group)}


@dataclass(frozen=True)
class Database:
    """What an example's queries are about. path: its SQLite file, None where there are no databases to run on."""

    db_id: str
    schema: Schema
    path: Path | None = None


def read_schemas(path: Path) -> dict[str, Schema]:
    """The schemas of a tables.json by db_id, in the order of the file.

    Raises:
        UserError: the file is missing, not UTF-8, not JSON (or cut short), or an entry is not a schema.
    """
    entries = _read_json(path)
    if not isinstance(entries, list):
        raise UserError(
            f"{path}: a tables.json is one list of schemas, this is not; take the one of the Spider archive"
        )
    schemas: dict[str, Schema] = {}
    for number, entry in enumerate(entries, 1):
        try:
            schema = _schema(entry)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise UserError(f"{path}: entry {number} is no schema of Spider's form ({error!r:.200})") from error
        if schema.db_id in schemas:
            raise UserError(f"{path}: two schemas for db_id {schema.db_id[:80]!r}; remove one")
        schemas[schema.db_id] = schema
    return schemas


def find_schema(schemas: dict[str, Schema], db_id: str) -> Schema:
    """The schema of a database.

    Raises:
        UserError: there is none of that name.
    """
    if db_id not in schemas:
        known = ", ".join(sorted(schemas)[:5]) + (", ..." if len(schemas) > 5 else "")
        raise UserError(
            f"no schema for db_id {db_id[:80]!r} in tables.json, which has {len(schemas)} ({known or 'none'})"
        )
    return schemas[db_id]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"no {path}: Spider's schemas are read from there; it is part of the Spider archive") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); take it from the Spider archive again") from error
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond Python's limits
        raise UserError(
            f"{path} is not JSON, or is cut short ({error}); take it from the Spider archive again"
        ) from error


def _schema(entry: dict[str, Any]) -> Schema:
    """Checks what the rest relies on: names are texts, and every index points at something."""
    tables = tuple(_text(name) for name in entry["table_names_original"])
    columns = tuple((_index(table), _text(name)) for table, name in entry["column_names_original"])
    types = tuple(_text(kind) for kind in entry["column_types"])
    primary = tuple(_index(place) for place in entry["primary_keys"])
    foreign = tuple((_index(child), _index(parent)) for child, parent in entry["foreign_keys"])
    if any(not -1 <= table < len(tables) for table, _ in columns):
        raise ValueError("a column of a table that is not there")
    if len(types) != len(columns):
        raise ValueError(f"{len(types)} types for {len(columns)} columns")
    if any(not 0 <= place < len(columns) for place in (*primary, *(place for pair in foreign for place in pair))):
        raise ValueError("a key of a column that is not there")
    return Schema(_text(entry["db_id"]), tables, columns, types, primary, foreign)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text should be")
    value.encode()  # raises for a lone surrogate, which no tokenizer takes
    return value


def _index(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{type(value).__name__} where a whole number should be")
    return value
