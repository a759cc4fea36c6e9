"""Exact set match: whether two parses ask for the same, clause by clause (taoyds/spider, evaluation).

Both parses are rewritten first (``prepare``): values are erased, columns that foreign keys make equal become one,
DISTINCT is forgotten. Where a rewriting does not reach, that is the official evaluator's way too.
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import replace

from ssm_tune.metrics.sql.schema import Schema
from ssm_tune.metrics.sql.tree import Column, Condition, Item, Query, Unit, conditions, connectors

Chain = tuple[Condition | str, ...]


def prepare(query: Query, schema: Schema) -> Query:
    """``query`` as it is compared: without values, with foreign keys folded."""
    tables = {table for table in query.tables if isinstance(table, str)}
    # only columns of tables in the outermost FROM are folded, in the branches of set operations too
    folded = {column: first for column, first in schema.folded.items() if column.partition(".")[0] in tables}
    return _fold(_erase(query), folded)


def exact_match(predicted: Query, gold: Query) -> bool:
    """Whether two prepared queries match in every component. Join conditions are not compared."""
    return (
        _same(predicted.items, gold.items)
        and _same(conditions(predicted.where), conditions(gold.where))
        and _same(map(_bare, predicted.group), map(_bare, gold.group))
        and _same_grouping(predicted, gold)
        and _same_order(predicted, gold)
        and set(connectors(predicted.where)) == set(connectors(gold.where))
        and all(_same_branch(*pair) for pair in zip(_branches(predicted), _branches(gold), strict=True))
        and _keywords(predicted) == _keywords(gold)
        and (not gold.tables or _same(predicted.tables, gold.tables))
    )


# -- rewriting -------------------------------------------------------------------------------------------------------


def _erase(query: Query) -> Query:
    """Values of ON, WHERE and HAVING become None, in compared queries and set operations too, not inside FROM."""
    return replace(
        query,
        on=_erase_chain(query.on),
        where=_erase_chain(query.where),
        having=_erase_chain(query.having),
        intersect=query.intersect and _erase(query.intersect),
        union=query.union and _erase(query.union),
        except_=query.except_ and _erase(query.except_),
    )


def _erase_chain(chain: Chain) -> Chain:
    def without(value: object) -> Query | None:
        return _erase(value) if isinstance(value, Query) else None

    return tuple(
        replace(one, value=without(one.value), second=without(one.second))
        if isinstance(one, Condition) and place % 2 == 0
        else one
        for place, one in enumerate(chain)
    )


def _fold(query: Query, folded: dict[str, str]) -> Query:
    """Columns to their group's first, DISTINCT erased; not inside FROM, nor in queries that are compared with."""

    def column(one: Column) -> Column:
        return Column(one.aggregate, folded.get(one.column, one.column), False)

    def unit(one: Unit) -> Unit:
        return Unit(one.operator, column(one.left), one.right and column(one.right))

    def chain(one: Chain) -> Chain:
        return tuple(
            replace(link, unit=unit(link.unit)) if isinstance(link, Condition) and place % 2 == 0 else link
            for place, link in enumerate(one)
        )

    return replace(
        query,
        distinct=False,
        items=tuple(Item(item.aggregate, unit(item.unit)) for item in query.items),
        on=chain(query.on),
        where=chain(query.where),
        group=tuple(map(column, query.group)),
        having=chain(query.having),
        order=tuple(map(unit, query.order)),
        intersect=query.intersect and _fold(query.intersect, folded),
        union=query.union and _fold(query.union, folded),
        except_=query.except_ and _fold(query.except_, folded),
    )


# -- components ------------------------------------------------------------------------------------------------------


def _same(one: Iterable[Hashable], other: Iterable[Hashable]) -> bool:
    """Equal as multisets."""
    return Counter(one) == Counter(other)


def _bare(column: Column) -> str:
    """The column's name without its table: the same name in another table passes."""
    return column.column.partition(".")[2] or column.column


def _same_grouping(one: Query, other: Query) -> bool:
    """HAVING is compared only here, so where there is no GROUP BY it may be anything."""
    if not one.group and not other.group:
        return True
    columns = [column.column for column in one.group], [column.column for column in other.group]
    return columns[0] == columns[1] and one.having == other.having


def _same_order(one: Query, other: Query) -> bool:
    """Direction and units in order; LIMIT in both or in neither, whatever the number."""
    if one.direction is None and other.direction is None:
        return True
    same_order = (one.direction, one.order) == (other.direction, other.order)
    return same_order and (one.limit is None) == (other.limit is None)


def _branches(query: Query) -> tuple[Query | None, ...]:
    return query.intersect, query.except_, query.union


def _same_branch(one: Query | None, other: Query | None) -> bool:
    if one is None or other is None:
        return one is other
    return exact_match(one, other)


def _keywords(query: Query) -> set[str]:
    chains = (query.on, query.where, query.having)
    compared = [one for chain in chains for one in conditions(chain)]
    present = {
        "where": query.where,
        "group": query.group,
        "having": query.having,
        "order": query.direction,
        str(query.direction): query.direction,
        "limit": query.limit is not None,
        "except": query.except_,
        "union": query.union,
        "intersect": query.intersect,
        "or": any("or" in connectors(chain) for chain in chains),
        "not": any(one.negated for one in compared),
        "in": any(one.operator == "in" for one in compared),
        "like": any(one.operator == "like" for one in compared),
    }
    return {word for word, there in present.items() if there}
