"""Spider's four levels of hardness, from the parse of the gold query (taoyds/spider, evaluation)."""

from ssm_tune.metrics.sql.tree import Condition, Query, conditions, connectors

LEVELS = ("easy", "medium", "hard", "extra")


def hardness(query: Query) -> str:
    """One of LEVELS. Only the outermost query counts; sub-queries count by their number."""
    clauses, nested, others = _clauses(query), len(_nested(query)), _others(query)
    if nested == 0:
        if clauses <= 1 and others == 0:
            return "easy"
        if (clauses <= 1 and others <= 2) or (clauses <= 2 and others < 2):
            return "medium"
        if (clauses <= 2 and others > 2) or (clauses == 3 and others <= 2):
            return "hard"
    elif nested == 1 and clauses <= 1 and others == 0:
        return "hard"
    return "extra"


def _clauses(query: Query) -> int:
    """WHERE, GROUP BY, ORDER BY, LIMIT, every join, every OR, every LIKE. HAVING does not count."""
    present = [bool(query.where), bool(query.group), query.direction is not None, query.limit is not None]
    joins = max(len(query.tables) - 1, 0)
    chains = (query.on, query.where, query.having)
    ors = sum(connectors(chain).count("or") for chain in chains)
    likes = sum(one.operator == "like" for chain in chains for one in conditions(chain))
    return sum(present) + joins + ors + likes


def _nested(query: Query) -> list[Query]:
    """Queries compared with in ON, WHERE and HAVING, and the branches of set operations; not those in FROM."""
    compared = [one for chain in (query.on, query.where, query.having) for one in conditions(chain)]
    values = [value for one in compared for value in (one.value, one.second)]
    branches = [query.intersect, query.except_, query.union]
    return [value for value in [*values, *branches] if isinstance(value, Query)]


def _others(query: Query) -> int:
    """How many of four things there is more than one of: aggregates, selected items, WHERE, GROUP BY columns.

    WHERE is counted with its connectors, so two conditions are more than one.
    """
    counts = (_aggregates(query), len(query.items), len(query.where), len(query.group))
    return sum(count > 1 for count in counts)


def _aggregates(query: Query) -> int:
    """What the official count of aggregates counts.

    It reads the first field of whatever it is given. For selected items and for columns that is the aggregate; for
    a condition it is whether it is negated; for a word between conditions, which it meets in HAVING only, it is a
    letter and always counts. Aggregates of HAVING are never seen.
    """
    ordered = [column for unit in query.order for column in (unit.left, unit.right) if column is not None]
    aggregates = [item.aggregate for item in query.items] + [one.aggregate for one in (*query.group, *ordered)]
    by_mistake = [not isinstance(one, Condition) or one.negated for one in (*conditions(query.where), *query.having)]
    return sum(aggregate != "none" for aggregate in aggregates) + sum(by_mistake)
