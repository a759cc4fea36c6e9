"""The official grammar: dev.json's stored parses, and lists of what is accepted and refused."""

from contextlib import suppress
from dataclasses import replace

import pytest
from helpers.toy_spider import SCHEMA
from hypothesis import example, given
from hypothesis import strategies as st
from nltk.tokenize.destructive import NLTKWordTokenizer

from ssm_tune.metrics.sql import Database, Schema
from ssm_tune.metrics.sql.parser import MAX_DEPTH, parse
from ssm_tune.metrics.sql.tokens import MAX_LENGTH, tokenize
from ssm_tune.metrics.sql.tree import AGGREGATES, ARITHMETIC, COMPARISONS, Column, Condition, NotParsable, Query, Unit

ACCEPTED = [
    "SELECT name FROM singer",
    "select name , age from singer where age > 20 and country = 'France' or age < 3",
    "SELECT count(*) FROM singer;",
    "SELECT count(DISTINCT country) FROM singer ; ;",
    "SELECT T1.name FROM singer AS T1 JOIN song AS T2 ON T1.singer_id = T2.singer_id",
    "SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM song)",
    "SELECT name FROM singer WHERE age BETWEEN 1 AND 2",
    "SELECT country FROM singer GROUP BY country HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 3",
    "SELECT age - singer_id FROM singer",
    "SELECT name FROM singer UNION SELECT title FROM song",
    "SELECT count(*) FROM (SELECT age FROM singer)",
    "SELECT name FROM singer WHERE age >= 3 AND age != 4",
    # malformed, and accepted all the same: what follows the recognised end is not read
    "SELECT name FROM singer LIMIT 5 garbage",
    "SELECT name FROM singer ORDER BY age garbage",
    "SELECT name FROM singer )",
    "SELECT name FROM singer WHERE age = 3 and",
    "SELECT name FROM singer LIMIT 5 OFFSET 2",
    "SELECT name FROM singer LIMIT 5 -- comment",
    "SELECT name age FROM singer",
    "SELECT name FROM singer JOIN song",
]

REFUSED = [
    "",
    "nonsense",
    "SELECT 1",
    "SELECT name AS n FROM singer",
    "SELECT t.name FROM singer t",
    "SELECT * FROM singer , song",
    "SELECT * FROM singer INNER JOIN song ON singer.singer_id = song.singer_id",
    "SELECT * FROM singer LEFT JOIN song ON singer.singer_id = song.singer_id",
    "SELECT name FROM singer WHERE age IS NULL",
    "SELECT name FROM singer WHERE age IS NOT NULL",
    "SELECT name FROM singer WHERE EXISTS (SELECT * FROM song)",
    "SELECT name FROM singer WHERE (age = 1 OR age = 2)",
    "SELECT name FROM singer UNION ALL SELECT title FROM song",
    "SELECT age + 1 FROM singer",
    "SELECT max(age) / min(age) FROM singer",
    "SELECT name FROM singer WHERE age <> 3",
    "SELECT name FROM singer WHERE name = 'O''Neill",
    'SELECT name FROM singer WHERE name = "O\'Neill"',
    "SELECT name FROM singer WHERE singer_id=song_id",
    "SELECT name FROM singer WHERE age=3",
    "SELECT name FROM singer WHERE name ='x'",
    "SELECT name FROM singer WHERE name !='x'",
    "SELECT name FROM singer WHERE age >=3",
    "SELECT name FROM singer WHERE name like'%s'",
    "SELECT name FROM singer WHERE age = 3 -- comment",
    "SELECT name FROM singer WHERE age IN (1, 2)",
    "SELECT name FROM singer LIMIT x",
    "SELECT title FROM singer",
    "SELECT name FROM nowhere",
    "SELECT name FROM singer AS song",
    "SELECT nowhere.name FROM singer",
    "SELECT a.b.c FROM singer",
    "SELECT name FROM singer WHERE age = 1 age = 2 and age = 3",
    "SELECT name FROM singer AS",
]


@pytest.mark.parametrize("query", ACCEPTED)
def test_accepted(query: str) -> None:
    assert parse(query, SCHEMA).items


@pytest.mark.parametrize("query", REFUSED)
def test_refused(query: str) -> None:
    with pytest.raises(NotParsable):
        parse(query, SCHEMA)


def test_a_parse() -> None:
    query = parse("SELECT DISTINCT T1.Name FROM singer AS T1 WHERE T1.age NOT BETWEEN 3 AND 4.5 ORDER BY age", SCHEMA)
    age = Unit("none", Column("none", "singer.age", False), None)
    assert query.distinct
    assert query.tables == ("singer",)
    assert query.where == (Condition(True, "between", age, 3.0, 4.5),)
    assert (query.direction, query.order) == ("asc", (age,))


def test_aliases_are_of_the_whole_query() -> None:
    inner = "SELECT t.title FROM song AS t WHERE t.singer_id IN (SELECT t.singer_id FROM singer AS t)"
    with pytest.raises(NotParsable, match=r"no singer\.title"):
        parse(inner, SCHEMA)


def test_literals_keep_their_case_and_lose_their_quotes_kind() -> None:
    assert tokenize("Name = 'A b'") == tokenize('NAME = "A b"') == ["name", "=", '"A b"']
    assert tokenize("a >= 1 and b ! = 2 and c <= 3")[1] == ">="
    assert "!=" in tokenize("b ! = 2")


def test_very_long_and_very_deep_queries_are_refused() -> None:
    with pytest.raises(NotParsable, match="characters"):
        parse("SELECT name FROM singer" + " " * MAX_LENGTH, SCHEMA)
    with pytest.raises(NotParsable, match="inside each other"):
        parse("SELECT name FROM singer WHERE age IN (" * 500, SCHEMA)
    at_the_limit = "SELECT age FROM singer WHERE age IN (" * MAX_DEPTH + "SELECT age FROM singer" + ")" * MAX_DEPTH
    assert parse(at_the_limit, SCHEMA).where


@example("5.\x1f")
@example("5.\n\u2019")
@given(st.text(alphabet="a.=<>!() \t\n,;:'\"`*-$%&@#?[]{}5é«\u2019\x1f\u2003", max_size=60))
def test_words_are_nltks(text: str) -> None:
    """Blanks in a run are one blank, quotes apart: nltk's tokeniser on the text as it is says the same."""
    text = text.replace("'", "").replace('"', "")
    joined = tokenize(text)
    words = [word.lower() for word in NLTKWordTokenizer().tokenize(text)]
    assert "".join(joined) == "".join(words)
    assert [word for word in joined if "=" not in word] == [
        word
        for place, word in enumerate(words)
        if "=" not in word and not (word in "!<>" and words[place + 1 : place + 2] == ["="])
    ]


@given(st.text(max_size=200))
def test_no_text_does_anything_but_parse_or_not(text: str) -> None:
    for query in (text, f"SELECT {text} FROM singer", f"SELECT name FROM singer WHERE {text}"):
        with suppress(NotParsable):
            assert isinstance(parse(query, SCHEMA), Query)


def test_stored_parses(dev: list[dict], dev_databases: list[Database]) -> None:
    for one, database in zip(dev, dev_databases, strict=True):
        assert _Stored(database.schema).query(parse(one["query"], database.schema)) == one["sql"], one["query"]
    assert len(dev) == 1034


def test_stored_parses_tell_queries_apart(dev: list[dict], dev_databases: list[Database]) -> None:
    """The comparison can fail: another LIMIT, another direction, another table is another stored parse."""
    at = next(place for place, one in enumerate(dev) if one["sql"]["limit"] and one["sql"]["orderBy"])
    stored = _Stored(dev_databases[at].schema)
    query = parse(dev[at]["query"], dev_databases[at].schema)
    assert stored.query(replace(query, limit=99)) != dev[at]["sql"]
    assert stored.query(replace(query, tables=query.tables[1:])) != dev[at]["sql"]
    assert stored.query(replace(query, direction=None)) != dev[at]["sql"]


class _Stored:
    """A parse in the form of dev.json's ``sql`` field, where words and names are numbers."""

    def __init__(self, schema: Schema) -> None:
        self.columns = {name: place for place, name in reversed(list(enumerate(schema.column_names)))}
        self.tables = {name.lower(): place for place, name in enumerate(schema.tables)}

    def query(self, query: Query | None) -> dict | None:
        if query is None:
            return None
        return {
            "from": {
                "table_units": [
                    ["sql", self.query(one)] if isinstance(one, Query) else ["table_unit", self.tables[one]]
                    for one in query.tables
                ],
                "conds": self.chain(query.on),
            },
            "select": [
                query.distinct,
                [[AGGREGATES.index(item.aggregate), self.unit(item.unit)] for item in query.items],
            ],
            "where": self.chain(query.where),
            "groupBy": [self.column(one) for one in query.group],
            "having": self.chain(query.having),
            "orderBy": [query.direction, [self.unit(one) for one in query.order]] if query.direction else [],
            "limit": query.limit,
            "intersect": self.query(query.intersect),
            "union": self.query(query.union),
            "except": self.query(query.except_),
        }

    def chain(self, chain: tuple) -> list:
        return [
            one
            if isinstance(one, str)
            else [
                one.negated,
                COMPARISONS.index(one.operator),
                self.unit(one.unit),
                self.value(one.value),
                self.value(one.second),
            ]
            for one in chain
        ]

    def value(self, value: object) -> object:
        if isinstance(value, Query):
            return self.query(value)
        return self.column(value) if isinstance(value, Column) else value

    def unit(self, unit: Unit) -> list:
        right = unit.right and self.column(unit.right)
        return [ARITHMETIC.index(unit.operator), self.column(unit.left), right]

    def column(self, column: Column) -> list:
        return [AGGREGATES.index(column.aggregate), self.columns[column.column], column.distinct]
