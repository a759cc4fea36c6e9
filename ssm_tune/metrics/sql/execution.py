"""Whether two queries give the same result: by the old official rules, and by rules that ask for the answer only."""

from collections.abc import Hashable, Sequence
from typing import Any

from ssm_tune.metrics.sql.permutation import equal_as_bags, equal_as_lists
from ssm_tune.metrics.sql.sandbox import Result, Rows
from ssm_tune.metrics.sql.tree import Column, Query

_WHOLE = 2.0**53  # up to here every whole number is a float


def same_answer(predicted: Result, gold: Result, ordered: bool) -> bool:
    """Whether both results hold the same values: as many rows and columns, columns in any order.

    Rows are a bag, unless ``ordered``: then their order counts. Two results without rows are equal whatever their
    columns. Values: NULL equals NULL only; numbers compare as numbers, floats to twelve significant digits, so that
    the order of a sum does not matter; texts and blobs compare exactly, bytes that are not UTF-8 being left out of
    texts; a number never equals a text. The rules are those of the test suite of Zhong et al. (2020,
    https://arxiv.org/abs/2010.02840) on one database, with DISTINCT as written, and the rounding is ours.
    """
    if predicted.rows is None or gold.rows is None or len(predicted.rows) != len(gold.rows):
        return False
    if not gold.rows:
        return True
    if len(predicted.rows[0]) != len(gold.rows[0]):
        return False
    equal = equal_as_lists if ordered else equal_as_bags
    return equal(_columns(predicted.rows), _columns(gold.rows))


def official_match(predicted: Result, gold: Result, predicted_query: Query, gold_query: Query) -> bool:
    """The execution match of taoyds/spider, of prepared parses (``exact.prepare``) and the results of the queries.

    A column of the result counts under the column that is selected, without its aggregate: ``max(age)`` and
    ``min(age)`` share one name, and only the last one is compared; ``*`` is one column, the first. Row order always
    counts. Values compare as Python compares them. Text that is not UTF-8 is an error, and so never right.
    """
    if predicted.undecodable or gold.undecodable or predicted.rows is None or gold.rows is None:
        return False
    try:
        return _by_name(predicted.rows, predicted_query) == _by_name(gold.rows, gold_query)
    except IndexError:  # more things selected, to the grammar, than the result has columns
        return False


def has_order(query: str) -> bool:
    """Whether the outermost query has an ORDER BY.

    Raises:
        ValueError: sqlglot cannot parse it.
    """
    if "order" not in query.lower():
        return False
    # imported at first use: it takes longer to load than the rest of a command
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        tree = sqlglot.parse_one(query, dialect="sqlite")
    except (SqlglotError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return tree.args.get("order") is not None


def _columns(rows: Rows) -> list[tuple[Hashable, ...]]:
    return [tuple(map(_comparable, column)) for column in zip(*rows, strict=True)]


def _comparable(value: Any) -> Hashable:
    if not isinstance(value, float):
        return value
    if value.is_integer() and abs(value) <= _WHOLE:
        return value  # equal to the same int
    return float(f"{value:.12g}")


def _by_name(rows: Sequence[tuple[Any, ...]], query: Query) -> dict[tuple[str | Column, ...], list[Any]]:
    named: dict[tuple[str | Column, ...], list[Any]] = {}
    for place, item in enumerate(query.items):
        unit = item.unit
        name = (unit.left,) if unit.right is None else (unit.operator, unit.left, unit.right)
        named[name] = [row[place] for row in rows]
    return named
