"""Execution matches: brute force over column orders as the oracle, and the old official rules' known faults."""

import math
import random
from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from helpers.toy_spider import SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.metrics.sql import Database
from ssm_tune.metrics.sql.exact import prepare
from ssm_tune.metrics.sql.execution import has_order, official_match, same_answer
from ssm_tune.metrics.sql.parser import parse
from ssm_tune.metrics.sql.sandbox import Limits, Pool, Result

Rows = list[tuple[Any, ...]]


def same(one: Rows, other: Rows, ordered: bool = False) -> bool:
    verdict = same_answer(Result(one), Result(other), ordered)
    assert same_answer(Result(other), Result(one), ordered) == verdict
    return verdict


def by_brute_force(one: Rows, other: Rows, ordered: bool) -> bool:
    if not one and not other:
        return True
    if len(one) != len(other) or len(one[0]) != len(other[0]):
        return False
    for order in permutations(range(len(one[0]))):
        moved = [tuple(row[place] for place in order) for row in other]
        if moved == one or (not ordered and Counter(moved) == Counter(one)):
            return True
    return False


cells = st.sampled_from([0, 1, None, "1", "a", b"a", 2.5])
tables = st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[cells] * width), max_size=5))


@given(tables, tables, st.booleans())
def test_same_answer_is_what_trying_every_order_says(one: Rows, other: Rows, ordered: bool) -> None:
    assert same(one, other, ordered) == by_brute_force(one, other, ordered)


@given(tables, st.randoms(use_true_random=False), st.booleans(), st.integers(0, 3))
def test_moved_and_damaged_results(rows: Rows, draw: random.Random, ordered: bool, damages: int) -> None:
    """Unrelated tables seldom agree: here one is the other, moved, perhaps with values exchanged."""
    if not rows:
        return
    order = list(range(len(rows[0])))
    draw.shuffle(order)
    moved = [[row[place] for place in order] for row in rows]
    if draw.random() < 0.7:
        draw.shuffle(moved)
    for _ in range(damages):
        (row, other), place = draw.choices(range(len(moved)), k=2), draw.randrange(len(order))
        moved[row][place], moved[other][place] = moved[other][place], moved[row][place]
    damaged = [tuple(row) for row in moved]
    assert same(rows, damaged, ordered) == by_brute_force(rows, damaged, ordered)


def test_values() -> None:
    assert same([(1,)], [(1.0,)])
    assert same([(None,)], [(None,)])
    assert same([(0.1 + 0.2,)], [(0.3,)])
    assert same([(2.0**60,)], [(2.0**60,)])
    assert same([(float("inf"),)], [(float("inf"),)])
    assert not same([(float("inf"),)], [(float("-inf"),)])
    assert not same([(0.1,)], [(0.10001,)])
    assert not same([("1",)], [(1,)])
    assert not same([(None,)], [(0,)])
    assert not same([("a",)], [("A",)])
    assert not same([("a",)], [(b"a",)])
    assert not same([(2**60,)], [(2**60 + 1,)])


@given(st.lists(st.floats(1e3, 1e4), min_size=2, max_size=40), st.integers(-12, 12), st.randoms(use_true_random=False))
def test_the_order_of_a_sum_does_not_matter(values: list[float], exponent: int, draw: random.Random) -> None:
    values = [value * 10.0**exponent for value in values]
    one, other = sum(values), sum(draw.sample(values, len(values)))
    exact = math.fsum(values)
    rows: Rows = [(one, "a"), (other, "b"), (7, None)]
    assert same(rows, [(None, 7), ("b", exact), ("a", exact)])
    assert same(rows, [("a", exact), ("b", exact), (None, 7)], ordered=True)
    assert not same(rows, [("a", exact * (1 + 1e-9)), ("b", exact), (None, 7)])


def test_whole_numbers_compare_exactly() -> None:
    assert same([(1e12,)], [(1e12 + 2**-12,)])
    assert same([(10**12,)], [(1e12 + 2**-12,)])
    assert not same([(10**12, 1.5)], [(10**12 + 1, 1.5)])
    assert not same([(10**15, 1.5)], [(10**15 + 1, 1.5)])


def test_shapes() -> None:
    assert same([], [])
    assert not same([], [(1,)])
    assert not same([(1,)], [(1,), (1,)])
    assert not same([(1, 1)], [(1,)])
    assert same([(1, 2), (3, 4)], [(4, 3), (2, 1)])
    assert not same([(1, 2), (3, 4)], [(4, 3), (2, 1)], ordered=True)
    assert same([(1, 2), (3, 4)], [(2, 1), (4, 3)], ordered=True)
    assert not same([(1, 2), (3, 4)], [(1, 4), (3, 2)])  # the columns agree, the rows do not
    assert not same_answer(Result(error="no"), Result([]), False)


def test_wide_results_are_quick() -> None:
    """Hundreds of columns that look alike, and results so symmetric that no sign tells their columns apart."""
    draw = random.Random(0)
    wide = [tuple(draw.randrange(2) for _ in range(300)) for _ in range(40)]
    order = draw.sample(range(300), 300)
    moved = [tuple(row[place] for place in order) for row in draw.sample(wide, 40)]
    assert same(wide, moved)
    units = [tuple(int(row == column) for column in range(60)) for row in range(60)]
    assert same(units, units[::-1])
    assert not same(_rings([9]), _rings([3, 3, 3]))
    assert same([(1,) * 2000], [(1,) * 2000])
    assert same([tuple(range(2000))], [tuple(range(2000))[::-1]])


def _rings(lengths: list[int]) -> Rows:
    """Incidence of edges (rows) and vertices (columns) of rings: regular, so every row and column looks alike."""
    edges, first = [], 0
    for length in lengths:
        edges += [{first + step, first + (step + 1) % length} for step in range(length)]
        first += length
    return [tuple(int(vertex in edge) for vertex in range(first)) for edge in edges]


def test_hopeless_searches_end() -> None:
    """Ten rings of six, and nine with two rings of three: every choice goes well until the last ring."""
    rings, others = _rings([6] * 10), _rings([3, 3] + [6] * 9)
    assert not same(rings, others)
    assert same(rings, rings[::-1])


def official(database: Database, predicted: str, gold: str) -> bool:
    assert database.path is not None
    with Pool(Limits()) as pool:
        results = {job[1]: result for job, result in pool.run([(database.path, predicted), (database.path, gold)])}
    queries = [prepare(parse(query, SCHEMA), SCHEMA) for query in (predicted, gold)]
    return official_match(results[predicted], results[gold], *queries)


@pytest.mark.parametrize(
    ("predicted", "gold", "verdict"),
    [
        ("SELECT name , age FROM singer", "SELECT age , name FROM singer", True),
        ("SELECT count(*) FROM singer", "SELECT count(name) FROM singer", False),  # other columns
        ("SELECT max(age) FROM singer", "SELECT age FROM singer ORDER BY age DESC LIMIT 1", True),  # no aggregate
        ("SELECT min(age) , max(age) FROM singer", "SELECT max(age) FROM singer", True),  # only the last one counts
        ("SELECT max(age) , min(age) FROM singer", "SELECT max(age) FROM singer", False),
        ("SELECT * FROM singer", "SELECT * FROM singer ORDER BY singer_id", True),
        (
            "SELECT * FROM singer JOIN song ON singer.singer_id = song.singer_id",
            "SELECT * FROM singer JOIN song ON singer.singer_id = song.singer_id AND song.sales > 0",
            True,
        ),
        ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer", False),  # row order always counts
        ("SELECT name FROM singer WHERE age > 99", "SELECT name FROM singer WHERE age > 98", True),
        ("SELECT name FROM singer WHERE age > 99", "SELECT age FROM singer WHERE age > 98", False),
        (
            "SELECT T2.singer_id FROM singer AS T1 JOIN song AS T2 ON T1.singer_id = T2.singer_id",
            "SELECT T1.singer_id FROM singer AS T1 JOIN song AS T2 ON T1.singer_id = T2.singer_id",
            True,
        ),  # folded
        ("SELECT name age FROM singer", "SELECT name , age FROM singer", False),  # two things, one column
    ],
)
def test_official_match(music: Database, predicted: str, gold: str, verdict: bool) -> None:
    assert official(music, predicted, gold) == verdict


def test_official_match_of_undecodable_text() -> None:
    query = prepare(parse("SELECT name FROM singer", SCHEMA), SCHEMA)
    result = Result([("a",)], undecodable=True)
    assert not official_match(result, result, query, query)
    assert official_match(Result([("a",)]), Result([("a",)]), query, query)


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("SELECT a FROM t ORDER BY a DESC LIMIT 3 ;", True),
        ("SELECT a FROM t WHERE a IN (SELECT b FROM t ORDER BY b LIMIT 1)", False),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT a FROM t UNION SELECT b FROM t ORDER BY a", True),
        ("SELECT rank() OVER (ORDER BY a) FROM t", False),
        ("SELECT a FROM t WHERE b = 'order by'", False),
        ('SELECT "order by" FROM t', False),
        ("SELECT a FROM t", False),
        ("WITH x AS (SELECT a FROM t ORDER BY a) SELECT a FROM x", False),
        ("WITH x AS (SELECT a FROM t) SELECT a FROM x ORDER BY 1", True),
    ],
)
def test_has_order(query: str, ordered: bool) -> None:
    assert has_order(query) == ordered


def test_has_order_of_what_sqlglot_refuses() -> None:
    with pytest.raises(ValueError, match=r"Expect|Invalid|Required"):
        has_order("SELECT ( FROM order by")


def test_has_order_of_dev(dev: list[dict]) -> None:
    """The stored parses say the same, a set operation's last branch having the ORDER BY of the whole."""

    def ordered(sql: dict) -> bool:
        branch = sql["intersect"] or sql["union"] or sql["except"]
        return ordered(branch) if branch else bool(sql["orderBy"])

    for one in dev:
        assert has_order(one["query"]) == ordered(one["sql"]), one["query"]
