"""Whether two queries give the same result: by the old official rules, and by rules that ask for the answer only."""

import math
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any

from ssm_tune.metrics.sql.permutation import equal_as_bags, equal_as_lists
from ssm_tune.metrics.sql.sandbox import Result, Rows
from ssm_tune.metrics.sql.tree import Column, Query

TOLERANCE = 1e-11
"""Relative: sums of the same floats in another order differ by less, unless nearly all of them cancel out."""


def same_answer(predicted: Result, gold: Result, ordered: bool) -> bool:
    """Whether both results hold the same values: as many rows and columns, columns in any order.

    Rows are a bag, unless ``ordered``: then their order counts. Two results without rows are equal whatever their
    columns. Values: NULL equals NULL only; numbers compare as numbers, floats within a relative TOLERANCE, so that the
    order of a sum does not matter; texts and blobs compare exactly, bytes that are not UTF-8 being left out of texts; a
    number never equals a text. The rules are those of the test suite of Zhong et al. (2020,
    https://arxiv.org/abs/2010.02840) on one database, with DISTINCT as written, and the tolerance is ours.
    """
    if predicted.rows is None or gold.rows is None or len(predicted.rows) != len(gold.rows):
        return False
    if not gold.rows:
        return True
    if len(predicted.rows[0]) != len(gold.rows[0]):
        return False
    equal = equal_as_lists if ordered else equal_as_bags
    same = _equal_numbers(predicted.rows, gold.rows)
    return equal(_columns(predicted.rows, same), _columns(gold.rows, same))


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


def _columns(rows: Rows, same: dict[float, float]) -> list[tuple[Hashable, ...]]:
    if not same:
        return list(zip(*rows, strict=True))
    return [
        tuple(same.get(value, value) if isinstance(value, int | float) else value for value in column)
        for column in zip(*rows, strict=True)
    ]


def _equal_numbers(*results: Rows) -> dict[float, float]:
    """For every number that a smaller one is equal to, the smallest of them.

    Equal are neighbours, in the order of all numbers of all results, that lie within TOLERANCE and of which one at
    least is a float: so equality is transitive, and does not depend on the order of rows.
    """
    floats = {value for rows in results for row in rows for value in row if isinstance(value, float)}
    if not floats:
        return {}
    numbers = {value for rows in results for row in rows for value in row if isinstance(value, int | float)}
    same: dict[float, float] = {}
    for one, other in pairwise(sorted(numbers)):
        if (one in floats or other in floats) and math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=0.0):
            same[other] = same.get(one, one)
    return same


def _by_name(rows: Sequence[tuple[Any, ...]], query: Query) -> dict[tuple[str | Column, ...], list[Any]]:
    named: dict[tuple[str | Column, ...], list[Any]] = {}
    for place, item in enumerate(query.items):
        unit = item.unit
        name = (unit.left,) if unit.right is None else (unit.operator, unit.left, unit.right)
        named[name] = [row[place] for row in rows]
    return named
