"""DART-like entries: what is known of a person as triples, and sentences that say it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ssm_tune.utils.errors import UserError

from .draw import Draw
from .grammar import article
from .kind import Phrases
from .words import Part
from .world import Person, World

Triple = tuple[str, str, str]

# entries, seed and words of each split
_SPLITS: dict[str, tuple[int, int, Part]] = {
    "train": (400, 4701, "seen"),
    "val": (60, 4802, "held"),
    "test": (120, 4803, "held"),
}
# what follows the person's name; plain text says the same in other words (facts.py)
_SAYS = {
    "JOB": Phrases("""
    is employed as {a}
    has found work as {a}
    * does the work of {a}
    """),
    "LIVES_IN": Phrases("""
    has a flat in {o}
    is at home in {o}
    * is a resident of {o}
    """),
    "AGE": Phrases("""
    is aged {o}
    has turned {o}
    * has reached the age of {o}
    """),
    "HOBBY": Phrases("""
    is fond of {o}
    spends the weekends on {o}
    * is keen on {o}
    """),
    "PET": Phrases("""
    keeps {a}
    takes care of {a}
    * shares the house with {a}
    """),
    "FRIEND": Phrases("""
    has a friend called {o}
    * is the friend of {o}
    """),
    "NEIGHBOUR": Phrases("""
    has a neighbour called {o}
    * is the neighbour of {o}
    """),
    "COLLEAGUE": Phrases("""
    has a colleague called {o}
    * is the colleague of {o}
    """),
    "COUSIN": Phrases("""
    has a cousin called {o}
    * is the cousin of {o}
    """),
}
_FRAMES = {
    1: Phrases("""
    {p} {x}.
    * It is known that {p} {x}.
    """),
    2: Phrases("""
    {p} {x} and {y}.
    {p}, who {x}, {y}.
    * {p} {x} and also {y}.
    """),
    3: Phrases("""
    {p} {x}, {y} and {z}.
    {p}, who {x}, {y} and {z}.
    * {p} {x} and {y}, and {he} {z}.
    """),
}


def dart_rows(split: str) -> list[dict[str, Any]]:
    """The entries of train (400), val (60) or test (120), in the form of DART's json.

    Each has ``tripleset``, one to three [subject, relation, object] about one person, and ``annotations``, one
    to three {"source", "text"}. val and test use people, values and phrasings that train never shows.

    Raises:
        UserError: for an unknown split.
    """
    if split not in _SPLITS:
        raise UserError(f"the sample world has no split {split!r}: use one of {', '.join(_SPLITS)}")
    count, seed, part = _SPLITS[split]
    return list(islice(_entries(seed, part), count))


def _entries(seed: int, part: Part) -> Iterator[dict[str, Any]]:
    draw = Draw(seed)
    known: set[tuple[Triple, ...]] = set()
    while True:
        world = World(draw, part)
        for person in world.people:
            triples = draw.sample(world.triples(person), draw.weighted({1: 1, 2: 2, 3: 2}))
            if tuple(triples) in known:
                continue
            known.add(tuple(triples))
            texts = list(dict.fromkeys(reference(draw, person, triples, part) for _ in range(draw.between(1, 3))))
            yield {
                "tripleset": [list(triple) for triple in triples],
                "annotations": [{"source": "sample", "text": text} for text in texts],
            }


def reference(draw: Draw, person: Person, triples: list[Triple], part: Part) -> str:
    """One sentence that says all triples of a person."""
    said = {
        slot: draw.choice(_SAYS[relation].of(part)).format(o=value, a=article(value))
        for slot, (_, relation, value) in zip("xyz", triples, strict=False)
    }
    return draw.choice(_FRAMES[len(triples)].of(part)).format(p=person, he=person.he, **said)
