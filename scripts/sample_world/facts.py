"""Small unlabelled documents of other sorts: triples, schemas, queries, opinions, questions, figures."""

from __future__ import annotations

from .draw import Draw
from .grammar import article
from .values import Place
from .words import DISHES, FILMS, MONTHS, PLACES, PRESENTS, ROOMS, TOWNS, WEEKDAYS
from .world import Person, World

_TELL = {
    "JOB": ("{p} is {a}.", "{p} works as {a}.", "{he} earns {his} money as {a}."),
    "LIVES_IN": ("{p} lives in {o}.", "{his} home is in {o}.", "{p} comes from {o}."),
    "AGE": ("{p} is {o} years old.", "{he} is {o}.", "{p} has lived for {o} years."),
    "HOBBY": ("{p} likes {o}.", "{his} hobby is {o}.", "In {his} free time {he} enjoys {o}."),
    "FRIEND": ("{p} is a friend of {o}.", "{he} is good friends with {o}."),
    "NEIGHBOUR": ("{p} is a neighbour of {o}.", "{he} lives next door to {o}."),
    "COLLEAGUE": ("{p} is a colleague of {o}.", "{he} works together with {o}."),
    "COUSIN": ("{p} is a cousin of {o}.", "{his} cousin is {o}."),
    "PET": ("{p} has {a}.", "{he} owns {a}.", "There is {a} in {his} house."),
}
_TABLES = {
    "person": ("id", "name", "age", "town", "job"),
    "pet": ("id", "name", "kind", "owner_id"),
    "shop": ("id", "name", "street", "opened"),
    "event": ("id", "day", "place_id", "guests"),
    "ticket": ("id", "price", "event_id", "person_id"),
    "place": ("id", "name", "town", "seats"),
    "book": ("id", "title", "pages", "year"),
    "trip": ("id", "town", "days", "person_id"),
}
_NUMBERS = ("id", "age", "opened", "guests", "price", "seats", "pages", "year", "days")
_VALUES = {"town": TOWNS, "day": WEEKDAYS, "kind": ("cat", "dog", "rabbit"), "job": ("nurse", "baker", "pilot")}
_GOOD = ("wonderful", "very good", "lovely", "a real joy", "better than I thought", "great fun", "excellent")
_BAD = ("terrible", "far too long", "boring", "a waste of money", "really bad", "not worth it", "a big mistake")
_MORE_GOOD = ("I will come again.", "I can only praise it.", "Everybody smiled.", "Ten points from me!")
_MORE_BAD = ("Never again.", "I was so angry.", "I want my money back.", "Two points out of ten.")


def facts(world: World) -> str:
    """Fact lines about one or two people, and the sentences that say the same."""
    draw = world.draw
    lines, sentences = [], []
    for person in draw.sample(world.people, draw.between(1, 2)):
        triples = draw.sample(world.triples(person), draw.between(2, 3))
        lines.append(" | ".join(" : ".join(triple) for triple in triples))
        sentences.append(_sentences(draw, person, triples))
    first, second = "\n".join(lines), "\n".join(sentences)
    return f"{first}\n{second}" if draw.chance(0.5) else f"{second}\n{first}"


def _sentences(draw: Draw, person: Person, triples: list[tuple[str, str, str]]) -> str:
    told = []
    for i, (_, relation, value) in enumerate(triples):
        # the first sentence must name the person
        form = draw.choice([f for f in _TELL[relation] if i or f.startswith("{p}")])
        slots = {"p": person, "o": value, "a": article(value), "he": person.he, "his": person.his}
        text = form.format(**slots)
        told.append(text[0].upper() + text[1:])
    return " ".join(told)


def schema(world: World) -> str:
    """A few tables with their columns, in one of several notations."""
    draw = world.draw
    tables = draw.sample(list(_TABLES), draw.between(2, 4))
    form = draw.choice(("table {} : {}", "{}({})", "| {} : {}", "{}: {}"))
    comma = " , " if ":" in form else ", "
    text = "\n".join(form.format(table, comma.join(_TABLES[table])) for table in tables)
    return draw.choice(("Schema:\n", "The tables:\n", "")) + text


def query(world: World) -> str:
    """Two to four queries, all in upper or all in lower case keywords."""
    draw = world.draw
    text = "\n".join(_query(draw) for _ in range(draw.between(2, 4)))
    return text.lower() if draw.chance(0.5) else text


def _query(draw: Draw) -> str:
    table = draw.choice(list(_TABLES))
    columns = _TABLES[table]
    shown = draw.choice(columns[1:])
    numbers = [c for c in columns if c in _NUMBERS]
    number = draw.choice(numbers)
    where = f"{number} {draw.choice(('>', '<', '=', '>='))} {draw.between(1, 60)}"
    words = [c for c in columns if c in _VALUES]
    if words and draw.chance(0.4):
        column = draw.choice(words)
        where = f"{column} = '{draw.choice(_VALUES[column])}'"
    form = draw.choice((
        "SELECT {shown} FROM {table}",
        "SELECT {shown} FROM {table} WHERE {where}",
        "SELECT count(*) FROM {table}",
        "SELECT count(*) FROM {table} WHERE {where}",
        "SELECT {shown} FROM {table} ORDER BY {number}",
        "SELECT {shown} FROM {table} ORDER BY {number} DESC LIMIT 1",
        "SELECT max({number}) , min({number}) FROM {table}",
        "SELECT avg({number}) FROM {table} WHERE {where}",
        "SELECT {shown} , count(*) FROM {table} GROUP BY {shown}",
        "SELECT T1.name FROM person AS T1 JOIN {linked} AS T2 ON T1.id = T2.{key}",
    ))  # fmt: skip
    linked, key = draw.choice((("pet", "owner_id"), ("ticket", "person_id"), ("trip", "person_id")))
    return form.format(shown=shown, table=table, where=where, number=number, linked=linked, key=key)


def opinion(world: World) -> str:
    """Some short reviews, each for or against something."""
    draw = world.draw
    texts = []
    for _ in range(draw.between(2, 4)):
        subject = draw.weighted({
            f"The film {draw.choice(FILMS)}": 1,
            f"The {draw.choice(DISHES)} {Place(draw.choice(ROOMS)).at}": 1,
            f"The trip to {draw.choice(TOWNS)}": 1,
            f"The {draw.choice(PRESENTS)} from {draw.choice(world.people)}": 1,
            f"The evening {draw.choice(PLACES)}": 1,
        })  # fmt: skip
        good = draw.chance(0.5)
        verdict, more = draw.choice(_GOOD if good else _BAD), draw.choice(_MORE_GOOD if good else _MORE_BAD)
        # a dish in the plural would need another verb
        texts.append(f"{subject}: {verdict}. {more}")
    return "\n".join(texts)


def questions(world: World) -> str:
    """Simple questions, each with its answer, about people of the world."""
    draw = world.draw
    texts = []
    for person in draw.sample(world.people, draw.between(2, 3)):
        asked, answer = draw.choice((
            (f"Where does {person} live?", f"In {person.town}."),
            (f"What is {person.s} job?", f"{person} is {person.job.a} {person.job.at}."),
            (f"How old is {person}?", f"{person.age} years old."),
            (f"Does {person} have a pet?", f"Yes, {article(person.pet)}."),
            (f"What does {person} do at the weekend?", f"{person.hobby.capitalize()}, most of the time."),
        ))  # fmt: skip
        texts.append(f"{asked} {answer}")
    return "\n".join(texts)


def figures(world: World) -> str:
    """Sums, dates, telephone numbers or a price list."""
    draw = world.draw
    sort = draw.below(3)
    lines = []
    for person in draw.sample(world.people, draw.between(3, 6)):
        x, y = draw.between(1, 30), draw.between(1, 30)
        if sort == 0:
            lines.append(f"{x} + {y} = {x + y}" if draw.chance(0.5) else f"{x + y} - {y} = {x}")
        elif sort == 1:
            number = "".join(str(draw.below(10)) for _ in range(6))
            lines.append(f"{person}, born on {min(x, 28)} {draw.choice(MONTHS)}, phone {number}")
        else:
            lines.append(f"{draw.choice(PRESENTS)}: {x}.{draw.choice(('00', '50', '90', '99'))} euros")
    return "\n".join(lines)
