"""People and events of the sample world, as structured facts that any task can tell in its own form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .draw import Draw
from .grammar import Tense
from .values import Clause, Job, draw_facts
from .words import Part, pool

_TIES = ("friend", "neighbour", "colleague", "cousin")


@dataclass(frozen=True)
class Person:
    """Somebody with a name; the short properties are the forms that templates ask for."""

    name: str
    female: bool
    age: int
    job: Job
    town: str
    hobby: str
    pet: str

    def __str__(self) -> str:
        return self.name

    @property
    def o(self) -> str:
        """The name as an object (differs from the subject only for a narrator)."""
        return self.name

    @property
    def s(self) -> str:
        """The name in the possessive."""
        return f"{self.name}'s"

    @property
    def he(self) -> str:
        return "she" if self.female else "he"

    @property
    def him(self) -> str:
        return "her" if self.female else "him"

    @property
    def his(self) -> str:
        return "her" if self.female else "his"


class Narrator:
    """Takes a person's place in a template when that person tells the story."""

    o = him = "me"
    s = his = "my"
    he = "I"

    def __str__(self) -> str:
        return "I"


class Pair:
    """Two people as one subject: "Anna and Ben", or "Ben and I" where one of them tells the story."""

    def __init__(self, a: Person | Narrator, b: Person | Narrator) -> None:
        inside = isinstance(a, Narrator) or isinstance(b, Narrator)
        self._text = f"{b} and {a}" if isinstance(a, Narrator) else f"{a} and {b}"
        self.they, self.them, self.their = ("we", "us", "our") if inside else ("they", "them", "their")

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True)
class Event:
    """One thing that happens: its kind, who takes part (slots a, b, sometimes c) and the facts.

    Every task tells events from these facts alone, so that a chat, a triple and a table row can agree.
    """

    kind: str
    people: Mapping[str, Person]
    facts: Mapping[str, Any]

    def slots(self, tense: Tense, narrator: str | None = None) -> dict[str, Any]:
        """What templates may ask for; ``narrator`` is the slot of the person who tells it, if one does."""
        people: dict[str, Any] = dict(self.people)
        if narrator is not None:
            people[narrator] = Narrator()
        slots = {**self.facts, **people, "both": Pair(people["a"], people["b"])}
        for name, fact in self.facts.items():
            if isinstance(fact, Clause):
                owner = Narrator() if tense == "spoken" else people[fact.owner]
                text = fact.text.replace("[I]", owner.he).replace("[me]", owner.him)
                slots[name] = text.replace("[my]", owner.his)
        return slots


class World:
    """A cast of people with jobs, towns, hobbies and pets, among whom events happen.

    Args:
        draw: where every choice comes from.
        part: which words the world knows; its people's names included.
        size: number of people, with different names.
    """

    def __init__(self, draw: Draw, part: Part = "all", size: int = 12) -> None:
        self.draw = draw
        self.part = part
        women, men = pool("female", part), pool("male", part)
        self.people = [self._person(name, name in women) for name in draw.sample(women + men, size)]
        # everybody is tied to the next one, the last to the first
        others = self.people[1:] + self.people[:1]
        self.ties = {p.name: (draw.choice(_TIES), other) for p, other in zip(self.people, others, strict=True)}

    def _person(self, name: str, female: bool) -> Person:
        draw = self.draw
        age, (job, town, hobby, pet) = (
            draw.between(19, 70),
            (draw.choice(pool(name, self.part)) for name in ("jobs", "towns", "hobbies", "pets")),
        )
        return Person(name, female, age, Job(job), town, hobby, pet)

    def event(self, kind: str, sources: Mapping[str, str], cast: str = "abc") -> Event:
        """An event whose facts come from ``values.draw_facts``, among different people of this world."""
        people = dict(zip(cast, self.draw.sample(self.people, len(cast)), strict=True))
        return Event(kind, people, draw_facts(sources, self.draw, self.part))

    def triples(self, person: Person) -> list[tuple[str, str, str]]:
        """What is known of one person, as (subject, relation, object)."""
        tie, other = self.ties[person.name]
        return [
            (person.name, tie.upper(), other.name),
            (person.name, "JOB", person.job),
            (person.name, "LIVES_IN", person.town),
            (person.name, "AGE", str(person.age)),
            (person.name, "HOBBY", person.hobby),
            (person.name, "PET", person.pet),
        ]
