"""Spider's official grammar, with what it wrongly refuses and wrongly accepts (taoyds/spider, process_sql).

Refused though SQLite runs it: aliases of selected items, a table alias without AS, comma joins, INNER and LEFT JOIN,
IS NULL, EXISTS, conditions in parentheses, UNION ALL, numbers in arithmetic, ``<>``. Accepted though malformed:
anything after the end that the grammar recognises.
"""

from dataclasses import replace

from ssm_tune.metrics.sql.cursor import Cursor
from ssm_tune.metrics.sql.schema import Schema
from ssm_tune.metrics.sql.tokens import tokenize
from ssm_tune.metrics.sql.tree import (
    AGGREGATES,
    ARITHMETIC,
    COMPARISONS,
    SET_OPERATIONS,
    Column,
    Condition,
    Item,
    NotParsable,
    Query,
    Unit,
    Value,
)

CLAUSES = ("select", "from", "where", "group", "order", "limit", *SET_OPERATIONS)
JOINING = ("join", "on", "as")
MAX_DEPTH = 50
"""Queries inside queries. The official code gives up where Python's stack does; here the depth is a stated one."""


def parse(query: str, schema: Schema) -> Query:
    """The parse of ``query`` against ``schema``.

    Raises:
        NotParsable: the official grammar refuses it.
    """
    words = tokenize(query)
    return _Parser(words, _tables_by_alias(words, schema), schema).query()[0]


def _tables_by_alias(words: list[str], schema: Schema) -> dict[str, str]:
    """Every ``x as y`` of the whole query, sub-queries too, as y -> x, and every table under its own name.

    The last one wins, and nobody asks whether x is a table.
    """
    places = [place for place, word in enumerate(words) if word == "as"]
    if places and places[-1] + 1 == len(words):
        raise NotParsable("nothing after AS")
    aliases = {words[place + 1]: words[place - 1] for place in places}
    for table in schema.columns_of:
        if table in aliases:
            raise NotParsable(f"alias {table} is the name of a table")
        aliases[table] = table
    return aliases


class _Parser(Cursor):
    """depth: how many queries the one to parse is inside of."""

    def __init__(self, words: list[str], aliases: dict[str, str], schema: Schema, depth: int = 0, at: int = 0) -> None:
        super().__init__(words, at)
        self.aliases = aliases
        self.schema = schema
        self.depth = depth

    # -- columns and values ---------------------------------------------------------------------------------------

    def column_name(self, tables: list[str]) -> str:
        word = self.take()
        if word == "*":
            return word
        if "." in word:
            alias, _, column = word.partition(".")
            if "." in column:
                raise NotParsable(f"{word!r} has two points")
            return self._known(f"{self._table(alias)}.{column}")
        if not tables:
            raise NotParsable("a column without a table in FROM")
        for name in tables:
            table = self._table(name)
            if table not in self.schema.columns_of:
                raise NotParsable(f"no table {table}")
            if word in self.schema.columns_of[table]:
                return f"{table}.{word}"
        raise NotParsable(f"no column {word}")

    def _table(self, alias: str) -> str:
        if alias not in self.aliases:
            raise NotParsable(f"no table {alias}")
        return self.aliases[alias]

    def _known(self, name: str) -> str:
        if name not in self.schema.names:
            raise NotParsable(f"no {name}")
        return name

    def column(self, tables: list[str]) -> Column:
        """``[(] column [)]`` or ``aggregate ( [distinct] column )``.

        A parenthesis opened before an aggregate is not closed here: what follows decides.
        """
        opened = self.take_if("(")
        if self.word in AGGREGATES:
            aggregate = self.take()
            self.expect("(")
            distinct = self.take_if("distinct")
            name = self.column_name(tables)
            self.expect(")")
            return Column(aggregate, name, distinct)
        distinct = self.take_if("distinct")
        name = self.column_name(tables)
        if opened:
            self.expect(")")
        return Column("none", name, distinct)

    def unit(self, tables: list[str]) -> Unit:
        opened = self.take_if("(")
        operator, left, right = "none", self.column(tables), None
        if self.next_in(ARITHMETIC):
            operator = self.take()
            right = self.column(tables)
        if opened:
            self.expect(")")
        return Unit(operator, left, right)

    def value(self, tables: list[str]) -> Value:
        start = self.at
        opened = self.take_if("(")
        value: Value
        if self.word == "select":
            value = self.inner_query()
        elif '"' in self.word:
            value = self.take()
        else:
            try:
                value = float(self.word)
                self.at += 1
            except ValueError:
                value = self._column_value(start, tables)
        if opened:
            self.expect(")")
        return value

    def _column_value(self, start: int, tables: list[str]) -> Column:
        """A column, and everything after it up to the next word that ends a value, unread."""
        ends = (",", ")", "and", *CLAUSES, *JOINING)
        while not self.ended and self.word not in ends:
            self.at += 1
        return _Parser(self.words[start : self.at], self.aliases, self.schema, self.depth).column(tables)

    # -- clauses --------------------------------------------------------------------------------------------------

    def conditions(self, tables: list[str]) -> tuple[Condition | str, ...]:
        chain: list[Condition | str] = []
        while not self.ended:
            unit = self.unit(tables)
            negated = self.take_if("not")
            operator = self.take()
            if operator not in COMPARISONS:
                raise NotParsable(f"{operator!r} is no comparison")
            value, second = self.value(tables), None
            if operator == "between":
                self.expect("and")
                second = self.value(tables)
            chain.append(Condition(negated, operator, unit, value, second))
            if self.next_in((*CLAUSES, ")", ";", *JOINING)):
                break
            if self.next_in(("and", "or")):
                chain.append(self.take())
        return _in_turn(chain)

    def from_clause(self) -> tuple[list["str | Query"], tuple[Condition | str, ...], list[str]]:
        """Tables and sub-queries, join conditions, and the tables that columns may come from.

        The clause is the first FROM after the current place, wherever that stands.
        """
        try:
            self.at = self.words.index("from", self.at) + 1
        except ValueError:
            raise NotParsable("no FROM") from None
        units: list[str | Query] = []
        chain: list[Condition | str] = []
        tables: list[str] = []
        while not self.ended:
            opened = self.take_if("(")
            if self.word == "select":
                units.append(self.inner_query())
            else:
                self.take_if("join")
                table = self._table(self.take())
                if self.next_in(("as",)):
                    self.at += 2  # the alias is known already
                units.append(self._known(table))
                tables.append(table)
            if self.take_if("on"):
                more = self.conditions(tables)
                chain += ["and", *more] if chain else more
            if opened:
                self.expect(")")
            if self.next_in((*CLAUSES, ")", ";")):
                break
        return units, _in_turn(chain), tables

    def items(self, tables: list[str]) -> tuple[bool, tuple[Item, ...]]:
        self.expect("select")
        distinct = self.take_if("distinct")
        items = []
        while not self.ended and self.word not in CLAUSES:
            aggregate = self.take() if self.word in AGGREGATES else "none"
            items.append(Item(aggregate, self.unit(tables)))
            self.take_if(",")
        return distinct, tuple(items)

    def group_by(self, tables: list[str]) -> tuple[Column, ...]:
        columns: list[Column] = []
        if self.take_if("group"):
            self.expect("by")
            while not self.ended and not self.next_in((*CLAUSES, ")", ";")):
                columns.append(self.column(tables))
                if not self.take_if(","):
                    break
        return tuple(columns)

    def order_by(self, tables: list[str]) -> tuple[str | None, tuple[Unit, ...]]:
        if not self.take_if("order"):
            return None, ()
        self.expect("by")
        direction, units = "asc", []
        while not self.ended and not self.next_in((*CLAUSES, ")", ";")):
            units.append(self.unit(tables))
            if self.next_in(("desc", "asc")):
                direction = self.take()  # the last one counts
            if not self.take_if(","):
                break
        return direction, tuple(units)

    def limit(self) -> int | None:
        if not self.take_if("limit"):
            return None
        try:
            return int(self.take())
        except ValueError:
            raise NotParsable("LIMIT without a whole number") from None

    # -- queries --------------------------------------------------------------------------------------------------

    def inner_query(self) -> Query:
        inner = _Parser(self.words, self.aliases, self.schema, self.depth + 1, self.at)
        query, self.at = inner.query()
        return query

    def query(self) -> tuple[Query, int]:
        """The query that begins here, and the place after it."""
        if self.depth > MAX_DEPTH:
            raise NotParsable(f"more than {MAX_DEPTH} queries inside each other")
        opened = self.take_if("(")
        start = self.at
        # FROM comes first: it says where the columns of SELECT may come from
        units, on, tables = self.from_clause()
        after_from, self.at = self.at, start
        distinct, items = self.items(tables)
        self.at = after_from
        where = self.conditions(tables) if self.take_if("where") else ()
        group = self.group_by(tables)
        having = self.conditions(tables) if self.take_if("having") else ()
        direction, order = self.order_by(tables)
        limit = self.limit()
        self._semicolons()
        if opened:
            self.expect(")")
        self._semicolons()
        branches: dict[str, Query] = {}
        if self.next_in(SET_OPERATIONS):
            operation = self.take()
            branches[operation] = self.inner_query()
        alone = Query(distinct, items, tuple(units), on, where, group, having, direction, order, limit)
        intersect, union, except_ = (branches.get(operation) for operation in SET_OPERATIONS)
        query = replace(alone, intersect=intersect, union=union, except_=except_)
        return query, self.at

    def _semicolons(self) -> None:
        while self.take_if(";"):
            pass


def _in_turn(chain: list[Condition | str]) -> tuple[Condition | str, ...]:
    """The chain, if no "and" or "or" stands where a condition should.

    That happens after two conditions without a word between them; the official code then stops with an exception.
    """
    if any(isinstance(one, str) for one in chain[::2]):
        raise NotParsable("conditions and the words between them are out of turn")
    return tuple(chain)
