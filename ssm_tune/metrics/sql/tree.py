"""The parse of a query: what Spider's official grammar knows of SQL, as plain values that compare with ``==``."""

from dataclasses import dataclass

AGGREGATES = ("none", "max", "min", "count", "sum", "avg")
ARITHMETIC = ("none", "-", "+", "*", "/")
COMPARISONS = ("not", "between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists")
SET_OPERATIONS = ("intersect", "union", "except")
"""The official words, in the official order: their places are the numbers in the ``sql`` fields of dev.json."""


class NotParsable(Exception):
    """The official grammar refuses the query, whatever SQLite may say to it."""


@dataclass(frozen=True, slots=True)
class Column:
    """``column`` is "table.column" in lower case, or "*"."""

    aggregate: str
    column: str
    distinct: bool


@dataclass(frozen=True, slots=True)
class Unit:
    """A column, or two joined by an operator of ARITHMETIC."""

    operator: str
    left: Column
    right: Column | None


@dataclass(frozen=True, slots=True)
class Item:
    """One thing selected; the aggregate written before a unit is here, not in the unit."""

    aggregate: str
    unit: Unit


@dataclass(frozen=True, slots=True)
class Condition:
    """``unit [not] operator value [and second]``; ``second`` only with between."""

    negated: bool
    operator: str
    unit: Unit
    value: "Value"
    second: "Value"


@dataclass(frozen=True, slots=True)
class Query:
    """One SELECT and what a set operation adds to it.

    tables: names in lower case, and sub-queries.
    on, where, having: conditions with the words between them ("and", "or"), flat. Two conditions without a word
    between them are accepted, and the second then stands where a word should (``connectors``).
    direction: "asc" or "desc" where there is an ORDER BY.
    """

    distinct: bool
    items: tuple[Item, ...]
    tables: tuple["str | Query", ...]
    on: tuple[Condition | str, ...] = ()
    where: tuple[Condition | str, ...] = ()
    group: tuple[Column, ...] = ()
    having: tuple[Condition | str, ...] = ()
    direction: str | None = None
    order: tuple[Unit, ...] = ()
    limit: int | None = None
    intersect: "Query | None" = None
    union: "Query | None" = None
    except_: "Query | None" = None


Value = None | float | str | Column | Query


def conditions(chain: tuple[Condition | str, ...]) -> list[Condition]:
    """Every other element: the conditions, as the official code finds them."""
    return [one for one in chain[::2] if isinstance(one, Condition)]


def connectors(chain: tuple[Condition | str, ...]) -> list[Condition | str]:
    """The elements between: "and", "or", or a condition in a place that lacks them."""
    return list(chain[1::2])
