"""What a kind of event is: the facts it needs and the phrasings that tell it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .words import Part


@dataclass(frozen=True)
class Phrases:
    """One phrasing a line. A line that starts with ``*`` is held out from the training rows.

    In chats ``|`` passes the word to the other speaker.
    """

    text: str

    @cached_property
    def _parts(self) -> dict[Part, tuple[str, ...]]:
        lines = [line.strip() for line in self.text.strip().splitlines()]
        seen = tuple(line for line in lines if not line.startswith("* "))
        held = tuple(line.removeprefix("* ") for line in lines if line.startswith("* "))
        return {"all": seen + held, "seen": seen, "held": held}

    def of(self, part: Part) -> tuple[str, ...]:
        """The phrasings of the training rows ("seen"), of the other splits' rows ("held"), or "all"."""
        return self._parts[part]


@dataclass(frozen=True)
class Kind:
    """A kind of event between a, who speaks first, and b.

    ``opening`` is spoken by a, ``reply`` by b, ``closing`` by a again; together they state every fact.
    ``summary`` tells it in the present tense, for labelled rows only. ``recount`` tells the same in other
    words, its verbs marked for any tense, for plain text only.
    """

    name: str
    facts: dict[str, str]
    opening: Phrases
    reply: Phrases
    closing: Phrases
    summary: Phrases
    recount: Phrases
    company: bool = False  # a third speaker may join in

    @property
    def names_c(self) -> bool:
        """Whether it is about a third person c."""
        return "{c" in self.opening.text


def kind(
    name: str,
    facts: str,
    *,
    opening: str,
    reply: str,
    closing: str,
    summary: str,
    recount: str,
    company: bool = False,
) -> Kind:
    """A kind whose facts are written ``slot=pool slot=pool``."""
    sources = dict(item.split("=") for item in facts.split())
    told = (Phrases(opening), Phrases(reply), Phrases(closing), Phrases(summary), Phrases(recount))
    return Kind(name, sources, *told, company)
