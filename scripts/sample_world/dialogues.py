"""Events told as chats, and SAMSum-like rows of a chat with its summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ssm_tune.utils.errors import UserError

from . import kinds_home, kinds_life, kinds_town
from .draw import Draw
from .grammar import fill
from .kind import Kind, Phrases
from .smalltalk import AFTER, BYSTANDER, GREETINGS, JOINING, WARM_UP
from .words import Part
from .world import Event, World

KINDS: dict[str, Kind] = {k.name: k for k in (*kinds_home.KINDS, *kinds_town.KINDS, *kinds_life.KINDS)}
MAX_TURNS = 6

# rows, seed and words of each split; every split has a stream of its own
_SPLITS: dict[str, tuple[int, int, Part]] = {
    "train": (640, 1701, "seen"),
    "val": (64, 1702, "held"),
    "test": (128, 1703, "held"),
}


@dataclass(frozen=True)
class Chat:
    """A conversation about an event.

    ``turns`` holds (name, text); ``joining`` the phrasing by which a third speaker joined in ("" if none did).
    """

    event: Event
    turns: tuple[tuple[str, str], ...]
    joining: str = ""

    @property
    def text(self) -> str:
        """The turns as ``Name: text``, one a line."""
        return "\n".join(f"{name}: {text}" for name, text in self.turns)


def new_event(world: World, name: str | None = None) -> Event:
    """An event of the named kind, or of any."""
    kind = KINDS[name or world.draw.choice(list(KINDS))]
    return world.event(kind.name, kind.facts)


def chat(draw: Draw, event: Event, part: Part = "all") -> Chat:
    """A chat of two to six turns in which the people of ``event`` arrange it, with small talk around."""
    kind = KINDS[event.kind]

    def pick(phrases: Phrases) -> str:
        return draw.choice(phrases.of(part))

    closing = pick(kind.closing)
    if "{" not in closing and draw.chance(0.15):
        closing = ""  # it states no fact
    matter = [pick(kind.opening), *_turns(pick(kind.reply)), *_turns(closing)]
    before: list[str] = []
    if len(matter) <= MAX_TURNS - 2 and draw.chance(0.25):
        before = _turns(pick(WARM_UP))
    elif draw.chance(0.3):
        matter[0] = f"{pick(GREETINGS)} {matter[0]}"
    speakers = ["ab"[i % 2] for i in range(len(before) + len(matter))]
    lines = before + matter
    joining = ""
    room = MAX_TURNS - len(lines)
    if kind.company and room >= 2 and draw.chance(0.3):
        joining = pick(JOINING)
        lines += _turns(joining.split(" => ")[0])
        speakers += ["c", "a"]
    elif not kind.names_c and room >= 1 and draw.chance(0.06):
        lines.append(pick(BYSTANDER))
        speakers.append("c")
    elif room >= 2 and draw.chance(0.15):
        following = "ab"[len(lines) % 2]
        lines += _turns(pick(AFTER))
        speakers += [following, "ba"["ab".index(following)]]
    slots = event.slots("spoken")
    people = event.people
    said = ((people[s].name, fill(line, slots, "spoken")) for s, line in zip(speakers, lines, strict=True))
    return Chat(event, tuple(said), joining)


def summary(draw: Draw, told: Chat, part: Part) -> str:
    """One to three sentences in the present tense that sum up the chat."""
    text = draw.choice(KINDS[told.event.kind].summary.of(part))
    if told.joining:
        text += " " + told.joining.split(" => ")[1]
    return fill(text, told.event.slots("present"), "present")


def samsum_rows(split: str, n: int | None = None) -> list[dict[str, str]]:
    """The rows of a split, with SAMSum's columns.

    Args:
        split: "train" (640 rows by default), "val" (64) or "test" (128). The last two use people, places,
            things and phrasings which train never shows.
        n: another number of rows; the shorter list is always the beginning of the longer one.

    Returns:
        Dictionaries with ``id``, ``dialogue`` (turns ``Name: text`` separated by a line feed) and ``summary``.

    Raises:
        UserError: for an unknown split.
    """
    if split not in _SPLITS:
        raise UserError(f"the sample world has no split {split!r}: use one of {', '.join(_SPLITS)}")
    count, seed, part = _SPLITS[split]
    chosen = islice(_rows(seed, part), count if n is None else n)
    return [{"id": f"sample-{split}-{i:05d}", **row} for i, row in enumerate(chosen)]


def _rows(seed: int, part: Part) -> Iterator[dict[str, str]]:
    """Endless different rows, all kinds of events equally often."""
    draw = Draw(seed)
    known: set[str] = set()
    while True:
        world = World(draw, part)
        for name in draw.shuffled(list(KINDS)):
            told = chat(draw, new_event(world, name), part)
            if told.text not in known:
                known.add(told.text)
                yield {"dialogue": told.text, "summary": summary(draw, told, part)}


def _turns(text: str) -> list[str]:
    return text.split(" | ") if text else []
