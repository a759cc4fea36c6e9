"""Small relational schemas and questions about them, each with the query that answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .draw import Draw
from .kind import Phrases
from .words import HELD_EVERY, JOBS, TOWNS, WEEKDAYS, Part

# every fourth table and column is held out from the labelled training rows, as words are
_TABLES = (
    "boats", "houses", "gardens", "hotels", "books", "films", "songs", "trips", "lessons", "parties", "matches",
    "tents", "lamps", "cars", "bikes", "trains", "shops", "teams", "nurses", "bakers", "pilots", "guests",
    "friends", "teachers", "dogs", "cats", "rabbits", "ponies", "drills", "ladders", "sofas", "chairs",
    "clocks", "printers", "museums", "clubs", "concerts", "courses", "bridges", "parks", "towers", "markets",
    "letters", "photos", "posters", "candles", "guitars", "pianos", "rings", "bags", "cakes", "pizzas", "soups",
    "pies",
)  # fmt: skip
_NUMBERS = {
    "price": (5, 300), "age": (2, 80), "year": (1950, 2025), "size": (20, 200), "weight": (1, 90), "pages": (20, 400),
    "seats": (4, 90), "guests": (2, 60), "rooms": (1, 20), "length": (3, 90), "points": (1, 50), "speed": (10, 120),
    "floor": (1, 12), "cost": (10, 400), "days": (1, 30), "windows": (1, 40),
}  # fmt: skip
_TEXTS = {
    "colour": ("red", "blue", "green", "white", "black", "yellow"),
    "town": TOWNS[:12],
    "day": WEEKDAYS,
    "country": ("Italy", "Spain", "Japan", "Egypt", "Ireland", "Canada"),
    "material": ("wood", "glass", "iron", "paper", "stone", "silk"),
    "job": tuple(job.partition(" at ")[0] for job in JOBS[:10]),
    "kind": ("old", "new", "small", "big", "modern", "simple"),
    "language": ("French", "Spanish", "German", "Latin", "Greek", "Polish"),
}
_NAMES = ("Star", "Sun", "Moon", "Rose", "Oak", "Lion", "River", "Lemon", "Palm", "Mill", "Castle", "Bridge", "Garden",
          "Silver", "Golden", "Winter", "Summer", "Island", "Kite", "Horse")  # fmt: skip


def _part(items: tuple[str, ...], part: Part) -> tuple[str, ...]:
    held = tuple(item for i, item in enumerate(items) if i % HELD_EVERY == HELD_EVERY - 1)
    return items if part == "all" else held if part == "held" else tuple(item for item in items if item not in held)


@dataclass(frozen=True)
class Table:
    """A table with the columns id, name, one or two of text, one or two of numbers.

    parent: the table whose id the last column, ``<parent>_id``, refers to.
    """

    name: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: tuple[dict[str, str | int], ...]
    parent: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Name to type, in order."""
        columns = {"id": "number", "name": "text"}
        columns |= dict.fromkeys(self.texts, "text") | dict.fromkeys(self.numbers, "number")
        return columns | ({f"{self.parent}_id": "number"} if self.parent else {})


def new_schema(draw: Draw, part: Part, tables: tuple[str, ...] | None = None, rows: int = 12) -> list[Table]:
    """One to three tables with rows; the second and third refer to the first. Held tables have columns of all sorts."""
    names = tables or tuple(draw.sample(_part(_TABLES, part), draw.weighted({1: 3, 2: 3, 3: 1})))
    return [_new_table(draw, part, name, names[0] if i else None, rows) for i, name in enumerate(names)]


def table_names(part: Part) -> tuple[str, ...]:
    """The names of all tables that schemas of a part may have."""
    return _part(_TABLES, part)


def _new_table(draw: Draw, part: Part, name: str, parent: str | None, rows: int) -> Table:
    columns: Part = "seen" if part == "seen" else "all"
    texts = tuple(draw.sample(_part(tuple(_TEXTS), columns), draw.between(1, 2)))
    numbers = tuple(draw.sample(_part(tuple(_NUMBERS), columns), draw.between(1, 2)))
    filled = []
    for i, title in enumerate(draw.sample(_NAMES, rows)):
        row: dict[str, str | int] = {"id": i + 1, "name": title}
        row |= {column: draw.choice(_TEXTS[column]) for column in texts}
        row |= {column: draw.between(*_NUMBERS[column]) for column in numbers}
        filled.append(row | ({f"{parent}_id": draw.between(1, rows)} if parent else {}))
    return Table(name, texts, numbers, tuple(filled), parent)


@dataclass(frozen=True)
class Shape:
    """A sort of query. ``asked`` are the questions of labelled rows, ``wanted`` those of plain text alone."""

    query: str
    asked: Phrases
    wanted: Phrases
    weight: float = 1.0
    fits: Callable[[Table], bool] = field(default=lambda table: True)


def _shape(query: str, asked: str, wanted: str, weight: float = 1.0) -> Shape:
    fits = (lambda table: table.parent is not None) if "{parent}" in query else (lambda table: True)
    return Shape(query, Phrases(asked), Phrases(wanted), weight, fits)


SHAPES = (
    _shape(
        "SELECT count(*) FROM {table}",
        """
        How many {table} are there?
        Count all {table}.
        * How many {table} are there in all?
        """,
        """
        We want to know how many {table} we have.
        Tell me how many {table} this is about.
        """,
        0.7,
    ),
    _shape(
        "SELECT {shown} FROM {table}",
        """
        Show the {shown} of all {table}.
        What is the {shown} of each of the {table}?
        * List the {shown} of all {table}.
        """,
        """
        We want to see the {shown} of our {table}.
        Please read out the {shown} for {table}.
        """,
    ),
    _shape(
        "SELECT {shown} FROM {table} WHERE {number} > {limit}",
        """
        Show the {shown} of the {table} with more than {limit} {number}.
        What is the {shown} of the {table} whose {number} is above {limit}?
        * List the {shown} of all {table} with a {number} above {limit}.
        """,
        """
        We look for {table} above {limit} {number} and want the {shown}.
        The {shown} of {table}, but only where the {number} is larger than {limit}, please.
        """,
    ),
    _shape(
        "SELECT {shown} FROM {table} WHERE {number} < {limit}",
        """
        Show the {shown} of the {table} with less than {limit} {number}.
        What is the {shown} of the {table} whose {number} is below {limit}?
        * List the {shown} of all {table} with a {number} below {limit}.
        """,
        """
        We look for {table} below {limit} {number} and want the {shown}.
        The {shown} of {table}, but only where the {number} is smaller than {limit}, please.
        """,
    ),
    _shape(
        "SELECT {shown} FROM {table} WHERE {text} = '{value}'",
        """
        Show the {shown} of the {table} with the {text} {value}.
        What is the {shown} of the {table} whose {text} is {value}?
        * List the {shown} of all {table} whose {text} is {value}.
        """,
        """
        We look for {table} of {text} {value} and want the {shown}.
        The {shown} of {table}, but only where the {text} says {value}, please.
        """,
        1.5,
    ),
    _shape(
        "SELECT count(*) FROM {table} WHERE {text} = '{value}'",
        """
        How many {table} have the {text} {value}?
        Count the {table} whose {text} is {value}.
        * How many {table} are there whose {text} is {value}?
        """,
        """
        We want to know how many {table} are of {text} {value}.
        Tell me how many {table} say {value} as {text}.
        """,
    ),
    _shape(
        "SELECT count(*) FROM {table} WHERE {number} > {limit}",
        """
        How many {table} have more than {limit} {number}?
        Count the {table} whose {number} is above {limit}.
        * How many {table} are there with more than {limit} {number}?
        """,
        """
        We want to know how many {table} are above {limit} {number}.
        Tell me how many {table} have a {number} larger than {limit}.
        """,
    ),
    _shape(
        "SELECT {shown} FROM {table} ORDER BY {number} DESC LIMIT 1",
        """
        Show the {shown} of the {table} with the highest {number}.
        Which {shown} belongs to the largest {number} of all {table}?
        * What is the {shown} of the {table} with the largest {number}?
        """,
        """
        We want the {shown} of that one of the {table} which is first by {number}.
        Among {table}, the {shown} where the {number} is greatest, please.
        """,
    ),
    _shape(
        "SELECT {shown} FROM {table} ORDER BY {number}",
        """
        Show the {shown} of all {table} sorted by {number}.
        What is the {shown} of each of the {table}, ordered by {number}?
        * List the {shown} of all {table} ordered by {number}.
        """,
        """
        We want to see the {shown} of our {table}, arranged from low to high {number}.
        Please read out the {shown} for {table}, beginning with the smallest {number}.
        """,
    ),
    _shape(
        "SELECT max({number}) FROM {table}",
        """
        What is the highest {number} of all {table}?
        Show the largest {number} of the {table}.
        * Find the highest {number} of the {table}.
        """,
        """
        We want to know the greatest {number} among our {table}.
        Tell me the top {number} that {table} have.
        """,
        0.7,
    ),
    _shape(
        "SELECT avg({number}) FROM {table}",
        """
        What is the average {number} of all {table}?
        Show the average {number} of the {table}.
        * Find the average {number} of the {table}.
        """,
        """
        We want to know the usual {number} among our {table}, on average.
        Tell me the mean {number} that {table} have.
        """,
        0.7,
    ),
    _shape(
        "SELECT {text} , count(*) FROM {table} GROUP BY {text}",
        """
        How many {table} are there for each {text}?
        Show each {text} and the number of {table}.
        * For each {text}, how many {table} are there?
        """,
        """
        We want to know, {text} by {text}, how many {table} we have.
        Tell me the {text} and how many {table} it has.
        """,
        0.7,
    ),
    _shape(
        "SELECT T1.name , T2.name FROM {table} AS T1 JOIN {parent} AS T2 ON T1.{parent}_id = T2.id",
        """
        Show the name of the {table} and of their {parent}.
        What are the names of all {table} with their {parent}?
        * List the names of all {table} and of their {parent}.
        """,
        """
        We want to see the {table} by name, each beside its {parent}.
        Please read out what {table} and their {parent} are called.
        """,
        0.7,
    ),
)


@dataclass(frozen=True)
class Question:
    """What is asked of a schema, and the query."""

    text: str
    query: str


def ask(draw: Draw, schema: list[Table], part: Part, plain: bool = False) -> Question:
    """A question about one table of the schema, in the labelled rows' words or, ``plain``, in others.

    Limits and values are taken from the table's rows, so that queries find something.
    """
    table = draw.choice(schema)
    shape = draw.weighted({shape: shape.weight for shape in SHAPES if shape.fits(table)})
    text, number = draw.choice(table.texts), draw.choice(table.numbers)
    others = [column for column in ("name", "name", *table.texts, *table.numbers) if column not in (text, number)]
    ordered = sorted(int(row[number]) for row in table.rows)
    slots = {
        "table": table.name, "parent": table.parent, "text": text, "number": number, "shown": draw.choice(others),
        "limit": draw.choice(ordered[2:-2]), "value": draw.choice(table.rows)[text],
    }  # fmt: skip
    phrases = shape.wanted.of("all") if plain else shape.asked.of(part)
    return Question(draw.choice(phrases).format_map(slots), shape.query.format_map(slots))
