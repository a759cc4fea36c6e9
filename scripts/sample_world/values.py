"""The values that fill the slots of templates: things, places, times, clauses, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .draw import Draw
from .grammar import article
from .words import MONTHS, WEEKDAYS, Part, pool


class Noun(str):
    """A countable thing: ``{thing}`` is "drill", ``{thing.a}`` "a drill"."""

    @property
    def a(self) -> str:
        return article(self)


class Job(Noun):
    """A job and where it is done: ``{job.a}`` is "a nurse", ``{job.at}`` "at a hospital"."""

    at: str

    def __new__(cls, text: str) -> Job:
        name, _, workplace = text.partition(" at ")
        job = super().__new__(cls, name)
        job.at = f"at {workplace}"
        return job


class Place(str):
    """A place by its name: ``{place}`` is "the park", ``{place.at}`` "in the park"."""

    at: str

    def __new__(cls, whereabouts: str) -> Place:
        place = super().__new__(cls, whereabouts.partition(" ")[2] or whereabouts)
        place.at = whereabouts
        return place


class When(str):
    """A day or time: ``{day}`` is "on Friday", ``{day.bare}`` "Friday"."""

    @property
    def bare(self) -> str:
        return self.removeprefix("on ").removeprefix("at ")


@dataclass(frozen=True)
class Clause:
    """Something said of one person, who is in a chat the speaker; see ``grammar`` for the marks."""

    text: str
    owner: str  # the slot of that person


def day(draw: Draw) -> When:
    """A day: "on Friday", "next Friday" or "on 12 May"."""
    form = draw.weighted({"on {day}": 6, "next {day}": 2, "on {n} {month}": 2})
    return When(form.format(day=draw.choice(WEEKDAYS[:6]), n=draw.between(1, 24), month=draw.choice(MONTHS)))


def later(draw: Draw, first: When) -> When:
    """A day after ``first``, which ``day`` made."""
    lead, *rest = first.split()
    if len(rest) == 2:
        return When(f"on {int(rest[0]) + draw.between(1, 6)} {rest[1]}")
    start = WEEKDAYS.index(rest[0])
    if lead == "on" and draw.chance(0.25):
        return When(f"next {draw.choice(WEEKDAYS)}")
    return When(f"{lead} {WEEKDAYS[start + draw.between(1, 6 - start)]}")


def time(draw: Draw) -> When:
    """A time of day such as "at 5 pm", "at 7:30" or "at noon"."""
    form = draw.weighted({"at {h} o'clock": 3, "at {pm} pm": 2, "at {h}:{m}": 3, "at noon": 0.5})
    hours = {"h": draw.between(1, 12), "pm": draw.between(1, 9)}
    return When(form.format(**hours, m=draw.choice(("15", "30", "45"))))


def price(draw: Draw) -> str:
    """A larger amount of money."""
    return f"{draw.choice((30, 40, 45, 50, 60, 70, 80, 90, 100, 120, 150, 200, 250, 300))} euros"


def fee(draw: Draw) -> str:
    """A small amount of money."""
    return f"{draw.choice((5, 8, 10, 12, 15, 18, 20, 24, 25, 28, 30, 35, 40))} euros"


_PLAIN = {"day": day, "time": time, "price": price, "fee": fee}
_NOUNS = {"tools", "machines", "belongings", "purchases", "presents", "sale_items", "pets"}
_PLACES = {"places", "rooms", "shops"}


def draw_facts(sources: Mapping[str, str], draw: Draw, part: Part) -> dict[str, Any]:
    """A value for each slot.

    Args:
        sources: slot to the name of a pool of ``words``, or to ``day``, ``later`` (a day after the first one
            drawn), ``time``, ``price``, ``fee``; ``a:pool`` makes a clause about person a.
        draw: where every choice comes from.
        part: which words of the pools may be used.
    """
    facts: dict[str, Any] = {}
    for slot, source in sources.items():
        if source == "later":
            facts[slot] = later(draw, next(fact for fact in facts.values() if isinstance(fact, When)))
        else:
            facts[slot] = _fact(source, draw, part)
    return facts


def _fact(source: str, draw: Draw, part: Part) -> Any:
    if source in _PLAIN:
        return _PLAIN[source](draw)
    owner, _, name = source.rpartition(":")
    word = draw.choice(pool(name, part))
    if owner:
        return Clause(word, owner)
    if name in _NOUNS:
        return Noun(word)
    if name == "jobs":
        return Job(word)
    return Place(word) if name in _PLACES else word
