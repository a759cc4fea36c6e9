"""Hardness and exact set match: the published counts, and the known consequences of the rules."""

from dataclasses import replace

import pytest
from helpers.toy_spider import SCHEMA

from ssm_tune.metrics.sql import Database, hardness_counts, spider_scores
from ssm_tune.metrics.sql.exact import exact_match, prepare
from ssm_tune.metrics.sql.hardness import hardness
from ssm_tune.metrics.sql.parser import parse


def match(predicted: str, gold: str) -> bool:
    one, other = (prepare(parse(query, SCHEMA), SCHEMA) for query in (predicted, gold))
    return exact_match(one, other)


JOIN = "FROM singer AS T1 JOIN song AS T2 ON T1.singer_id = T2.singer_id"

SAME = [
    ("SELECT name , age FROM singer", "SELECT age , name FROM singer"),
    ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age ASC LIMIT 3"),
    ("SELECT name FROM singer WHERE age = 3", "SELECT name FROM singer WHERE age = 99"),
    ("SELECT name FROM singer WHERE name = 'x'", 'SELECT name FROM singer WHERE name = "Other"'),
    (f"SELECT T1.name {JOIN}", "SELECT T1.name FROM singer AS T1 JOIN song AS T2 ON T1.age = T2.year"),
    (f"SELECT T1.name {JOIN}", "SELECT singer.name FROM singer JOIN song"),
    (f"SELECT T1.singer_id {JOIN}", f"SELECT T2.singer_id {JOIN}"),  # the foreign key makes them one
    (f"SELECT count(*) {JOIN} GROUP BY T1.singer_id", f"SELECT count(*) {JOIN} GROUP BY T2.singer_id"),
    ("SELECT DISTINCT name FROM singer", "SELECT name FROM singer"),
    ("SELECT count(DISTINCT age) FROM singer", "SELECT count(age) FROM singer"),
    (
        "SELECT name FROM singer WHERE age = 1 AND country = 'x'",
        "SELECT name FROM singer WHERE country = 'y' AND age = 2",
    ),
    (
        "SELECT name FROM singer WHERE age IN (SELECT year FROM song WHERE sales > 1)",
        "SELECT name FROM singer WHERE age IN (SELECT year FROM song WHERE sales > 2)",
    ),
    ("SELECT name FROM singer JOIN song", "SELECT name FROM song JOIN singer"),
    (
        f"SELECT title FROM song UNION SELECT T1.singer_id {JOIN}",
        f"SELECT title FROM song UNION SELECT T2.singer_id {JOIN}",
    ),
    ("SELECT name FROM singer ) garbage", "SELECT name FROM singer"),
]

DIFFERENT = [
    ("SELECT name FROM singer", "SELECT age FROM singer"),
    ("SELECT max(age) FROM singer", "SELECT min(age) FROM singer"),
    ("SELECT name FROM singer WHERE age = 3", "SELECT name FROM singer WHERE age > 3"),
    ("SELECT name FROM singer WHERE age = 3", "SELECT name FROM singer"),
    ("SELECT name FROM singer WHERE age NOT = 3", "SELECT name FROM singer WHERE age = 3"),
    ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC"),
    ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age LIMIT 1"),
    ("SELECT name FROM singer", "SELECT name FROM singer LIMIT 1"),
    ("SELECT country FROM singer", "SELECT country FROM singer GROUP BY country"),
    (
        "SELECT country FROM singer GROUP BY country , age",
        "SELECT country FROM singer GROUP BY age , country",
    ),
    (
        "SELECT country FROM singer GROUP BY country HAVING count(*) > 1",
        "SELECT country FROM singer GROUP BY country HAVING count(*) < 1",
    ),
    (
        "SELECT name FROM singer WHERE age = 1 AND age = 2",
        "SELECT name FROM singer WHERE age = 1 OR age = 2",
    ),
    # two comparisons are no BETWEEN
    (
        "SELECT name FROM singer WHERE age >= 1 AND age <= 2",
        "SELECT name FROM singer WHERE age BETWEEN 1 AND 2",
    ),
    # rewriting does not reach queries that are compared with: their DISTINCT counts
    (
        "SELECT name FROM singer WHERE age IN (SELECT DISTINCT year FROM song)",
        "SELECT name FROM singer WHERE age IN (SELECT year FROM song)",
    ),
    # branches are ordered
    ("SELECT name FROM singer UNION SELECT title FROM song", "SELECT title FROM song UNION SELECT name FROM singer"),
    ("SELECT name FROM singer UNION SELECT title FROM song", "SELECT name FROM singer EXCEPT SELECT title FROM song"),
    (f"SELECT T1.name {JOIN}", "SELECT name FROM singer"),
    # foreign keys fold only columns of tables in the outermost FROM, branches included
    (
        f"SELECT name FROM singer UNION SELECT T1.singer_id {JOIN}",
        f"SELECT name FROM singer UNION SELECT T2.singer_id {JOIN}",
    ),
    # values inside a FROM sub-query are compared
    (
        "SELECT count(*) FROM (SELECT name FROM singer WHERE age = 1)",
        "SELECT count(*) FROM (SELECT name FROM singer WHERE age = 2)",
    ),
    # the second of two conditions without a word between them stands where AND should
    ("SELECT name FROM singer WHERE age = 1 age = 2", "SELECT name FROM singer WHERE age = 1 AND age = 2"),
]


@pytest.mark.parametrize(("predicted", "gold"), SAME)
def test_same(predicted: str, gold: str) -> None:
    assert match(predicted, gold)
    assert match(gold, predicted)


@pytest.mark.parametrize(("predicted", "gold"), DIFFERENT)
def test_different(predicted: str, gold: str) -> None:
    assert not match(predicted, gold)
    assert not match(gold, predicted)
    assert match(gold, gold)


def test_two_queries_in_from_are_compared_without_order() -> None:
    """The official code stops with an exception here; the sane continuation is a bag."""
    one, other = "(SELECT name FROM singer)", "(SELECT title FROM song)"
    assert match(f"SELECT count(*) FROM {one} JOIN song {other}", f"SELECT count(*) FROM {other} JOIN song {one}")


def test_foreign_keys_merge_greedily() -> None:
    """A pair joins the first group that shares a column; a later pair does not unite two groups."""
    names = tuple((0, name) for name in "abcdef")
    columns = ((-1, "*"), *names)
    schema = replace(SCHEMA, tables=("t",), columns=columns, foreign_keys=((3, 4), (5, 6), (4, 6)))
    assert schema.folded == {"t.c": "t.c", "t.d": "t.c", "t.e": "t.e", "t.f": "t.e"}
    schema = replace(schema, foreign_keys=((2, 1), (2, 3)))
    assert schema.folded == {"t.a": "t.a", "t.b": "t.a", "t.c": "t.a"}


@pytest.mark.parametrize(
    ("query", "level"),
    [
        ("SELECT name FROM singer", "easy"),
        ("SELECT name FROM singer WHERE age = 3", "easy"),
        ("SELECT name , age FROM singer", "medium"),
        ("SELECT name FROM singer WHERE age = 3 AND age = 4", "medium"),
        ("SELECT name FROM singer ORDER BY age LIMIT 1", "medium"),
        ("SELECT name FROM singer WHERE age LIKE 'x'", "medium"),
        ("SELECT name FROM singer WHERE age = 1 OR age = 2", "medium"),
        ("SELECT country FROM singer GROUP BY country HAVING count(*) > 3", "easy"),  # HAVING does not count
        (f"SELECT T1.name {JOIN} ORDER BY T2.year LIMIT 1", "hard"),
        ("SELECT name FROM singer WHERE age IN (SELECT year FROM song)", "hard"),
        ("SELECT name FROM singer UNION SELECT title FROM song", "hard"),
        ("SELECT count(*) FROM (SELECT name FROM singer WHERE age IN (SELECT year FROM song))", "easy"),
        ("SELECT name , age FROM singer UNION SELECT title , year FROM song", "extra"),
        # negations in WHERE are counted as aggregates: one is none too many, with a real one it is
        ("SELECT name FROM singer WHERE name NOT LIKE 'x'", "medium"),
        ("SELECT max(age) , min(age) , age FROM singer WHERE age NOT LIKE 'x' AND age = 1", "hard"),
        # a connector in HAVING counts as an aggregate, HAVING's aggregates do not
        ("SELECT max(age) FROM singer GROUP BY country HAVING count(*) > 1 AND count(*) < 3", "medium"),
        ("SELECT age FROM singer GROUP BY country HAVING count(*) > 1 AND count(*) < 3", "easy"),
    ],
)
def test_hardness(query: str, level: str) -> None:
    assert hardness(parse(query, SCHEMA)) == level


def test_hardness_of_dev(dev: list[dict], dev_databases: list[Database]) -> None:
    golds = [one["query"] for one in dev]
    counts = {"easy": 248, "medium": 446, "hard": 174, "extra": 166}
    assert hardness_counts(golds, dev_databases) == counts
    assert hardness_counts([gold.lower() for gold in golds], dev_databases) == counts


def test_dev_against_its_lower_case(dev: list[dict], dev_databases: list[Database]) -> None:
    """Two queries compare literals inside FROM, which lower-casing changes."""
    golds = [one["query"] for one in dev]
    schemas_only = [replace(one, path=None) for one in dev_databases]
    values, statistics = spider_scores([gold.lower() for gold in golds], golds, schemas_only, golds)
    assert values["exact"] == pytest.approx(1032 / 1034)
    wrong = [one["db_id"] for one, its in zip(dev, statistics, strict=True) if not its["exact"]]
    assert wrong == ["world_1", "world_1"]
