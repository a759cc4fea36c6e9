"""Rows with GLUE's columns and labels, about facts of the sample world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ssm_tune.utils.errors import UserError

from .corrupt import corrupted
from .draw import Draw
from .genres import GENRES, Genre, changed, new_fact, of_others, tell, two_forms
from .kind import Phrases
from .reviews import review
from .words import Part
from .world import Event, World

Row = dict[str, Any]

# rows, seed and words of each split; every task has a stream of its own
_SPLITS: dict[str, tuple[int, int, Part]] = {"train": (1000, 2701, "seen"), "val": (300, 2802, "held")}
# whether two sentences say the same takes the tiny model longer to learn than the rest
_TRAIN_ROWS = {"mrpc": 2600, "qqp": 2600}
_MATCHED, _MISMATCHED = ("home", "trip", "purchase", "meeting"), ("loan", "dinner")
# how somebody asks for news of a matter
_LEADS = Phrases("""
Is this true?
Did you hear of this?
What do you say to this?
Who knows more?
* Have you heard?
* Can that be?
* Is it really so?
""")


@dataclass(frozen=True)
class _Scene:
    """What a row is made from: a world that knows the split's words, and a fact in it."""

    world: World
    genre: Genre
    fact: Event

    @property
    def draw(self) -> Draw:
        return self.world.draw

    @property
    def part(self) -> Part:
        return self.world.part

    def whole(self, fact: Event | None = None) -> str:
        """The fact, or another of its genre, in one sentence or two."""
        return tell(self.draw.choice(self.genre.whole.of(self.part)), fact or self.fact)

    def one(self, slot: str, fact: Event | None = None) -> str:
        """One part of it."""
        return tell(self.draw.choice(self.genre.parts[slot].of(self.part)), fact or self.fact)

    def asked(self, slot: str) -> str:
        """A question for one part of it."""
        return tell(self.draw.choice(self.genre.asked[slot].of(self.part)), self.fact)

    def elsewhere(self) -> _Scene:
        """The same people in a fact of another genre."""
        name = self.draw.choice([name for name in GENRES if name != self.genre.name])
        fact = self.world.event(name, GENRES[name].facts, "ab")
        return _Scene(self.world, GENRES[name], Event(name, self.fact.people, fact.facts))

    def slot(self) -> str:
        return self.draw.choice(list(self.genre.facts))


def _cola(scene: _Scene, label: int) -> Row:
    """1 acceptable, 0 not."""
    text = scene.whole() if scene.draw.chance(0.7) else scene.one(scene.slot())
    return {"sentence": text if label else corrupted(scene.draw, text)}


def _sst2(scene: _Scene, label: int) -> Row:
    """1 positive, 0 negative."""
    return {"sentence": review(scene.world, bool(label))}


def _mrpc(scene: _Scene, label: int) -> Row:
    """1 the same in other words, 0 with another value or about something else."""
    first, second = two_forms(scene.draw, scene.genre.whole, scene.part)
    told = tell(second, scene.fact)
    if not label:
        other = scene.draw.chance(1 / 3)
        told = tell(second, changed(scene.world, scene.fact, scene.slot())) if other else scene.elsewhere().whole()
    return {"sentence1": tell(first, scene.fact), "sentence2": told}


def _qqp(scene: _Scene, label: int) -> Row:
    """1 somebody asks about the same matter, 0 about other people's or another one."""
    draw, part = scene.draw, scene.part
    first, second = two_forms(draw, scene.genre.whole, part)
    told = tell(second, scene.fact)
    if not label:
        others = draw.chance(0.25)
        told = tell(second, of_others(scene.world, scene.fact)) if others else scene.elsewhere().whole()
    one, other = two_forms(draw, _LEADS, part)
    return {"question1": f"{one} {tell(first, scene.fact)}", "question2": f"{other} {told}"}


def _qnli(scene: _Scene, label: int) -> Row:
    """0 the sentence answers the question, 1 it does not: about other people or something else."""
    sentence = scene.whole()
    if label and scene.draw.chance(0.5):
        sentence = scene.whole(of_others(scene.world, scene.fact))
    elif label:
        sentence = scene.elsewhere().whole()
    return {"question": scene.asked(scene.slot()), "sentence": sentence}


def _rte(scene: _Scene, label: int) -> Row:
    """0 the second sentence follows from the first, 1 it does not: another value, other people, something else."""
    slot = scene.slot()
    second = scene.one(slot)
    if label:
        form = scene.draw.weighted({"value": 1, "people": 1, "matter": 2})
        if form == "matter":
            other = scene.elsewhere()
            second = other.one(other.slot())
        else:
            fact = scene.fact
            second = scene.one(
                slot, changed(scene.world, fact, slot) if form == "value" else of_others(scene.world, fact)
            )
    return {"sentence1": scene.whole(), "sentence2": second}


def _mnli(scene: _Scene, label: int) -> Row:
    """0 entailment, 1 neutral: about something else, 2 contradiction: another value."""
    slot = scene.slot()
    if label == 1:
        other = scene.elsewhere()
        return {"premise": scene.whole(), "hypothesis": other.one(other.slot())}
    fact = changed(scene.world, scene.fact, slot) if label else scene.fact
    return {"premise": scene.whole(), "hypothesis": scene.one(slot, fact)}


MEMBERS: dict[str, Callable[[_Scene, int], Row]] = {
    "cola": _cola, "mnli": _mnli, "mrpc": _mrpc, "qnli": _qnli, "qqp": _qqp, "rte": _rte, "sst2": _sst2,
}  # fmt: skip


def glue_rows(member: str, split: str) -> list[Row]:
    """The rows of a member of GLUE (cola, mnli, mrpc, qnli, qqp, rte, sst2), split train or val.

    The keys are the hub's columns, with ``label`` and ``idx``. All labels occur equally often. mnli's val rows
    have a further key ``half``: "matched" rows are of the genres of train, "mismatched" of others. Validation
    rows use names, things, verdicts and phrasings that train never shows (days, times and prices are common).

    Raises:
        UserError: for an unknown member or split.
    """
    if member not in MEMBERS:
        raise UserError(f"the sample world has no GLUE task {member!r}: use one of {', '.join(MEMBERS)}")
    if split not in _SPLITS:
        raise UserError(f"the sample world's GLUE has no split {split!r}: use one of {', '.join(_SPLITS)}")
    count, seed, part = _SPLITS[split]
    if split == "train":
        count = _TRAIN_ROWS.get(member, count)
    stream = _rows(member, seed + 10 * list(MEMBERS).index(member), part)
    return [{**row, "idx": i} for i, row in enumerate(islice(stream, count))]


def _rows(member: str, seed: int, part: Part) -> Iterator[Row]:
    """Endless different rows, the labels equally often, and the genres in turn."""
    draw = Draw(seed)
    known: set[tuple[str, ...]] = set()
    labels = (0, 1, 2) if member == "mnli" else (0, 1)
    halves = {"matched": _MATCHED, "mismatched": _MISMATCHED} if part == "held" else {"matched": _MATCHED}
    groups = halves if member == "mnli" else {"": tuple(GENRES)}
    while True:
        world = World(draw, part)
        for half, names in groups.items():
            for label in draw.shuffled(labels):
                row = None
                while row is None or tuple(row.values()) in known:
                    genre = GENRES[draw.choice(names)]
                    row = MEMBERS[member](_Scene(world, genre, new_fact(world, genre)), label)
                known.add(tuple(row.values()))
                yield {**row, "label": label} | ({"half": half} if member == "mnli" and part == "held" else {})
