"""Plain, unlabelled text of the sample world: what the embedded tiny model is pretrained on.

It teaches what the tasks need, in other forms and other words than theirs: to carry names, things, places and
times from a chat into a report (never a summary), to say triples in sentences, to see whether a claim agrees with
what was said, to notice mistakes and moods, to query tables. A task's instruction, a label's digit, a reference or
a question of Spider's rows occurs nowhere.

It comes in three stages: the first is chats and what came of them, for the most part; the second, a mix of what all
tasks need; the third puts remarks under headings of all sorts, with ``###`` between what is remarked on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import facts, remarks
from .dialogues import chat, new_event
from .draw import Draw
from .recounts import CONNECTORS, first_person, note, recount, third_person
from .stories import news, plans, story
from .world import World

_WORLD_SIZE = 16
_DOCUMENTS_PER_WORLD = 50


def chat_then_recount(world: World) -> str:
    """A chat and, right after it, what came of it."""
    draw = world.draw
    told = chat(draw, new_event(world))
    form = draw.weighted({"third": 6, "first": 2, "note": 1})
    if form == "third":
        return told.text + third_person(draw, told)
    return told.text + (note(draw, told) if form == "note" else first_person(draw, told))


def recount_then_chat(world: World) -> str:
    """What came of it, then the chat itself."""
    draw = world.draw
    told = chat(draw, new_event(world))
    text = recount(draw, told.event, "past", joining=told.joining)
    lead = draw.choice(("\n\n", "\n\nThe chat:\n", "\n\nThis is what they wrote:\n", "\n\nIn their own words\n"))
    return text + lead + told.text


def chat_alone(world: World) -> str:
    """One chat and nothing else."""
    return chat(world.draw, new_event(world)).text


def headed(world: World) -> str:
    """A chat and its report under headings that begin with ``###``, in either order."""
    draw = world.draw
    told = chat(draw, new_event(world))
    report = recount(draw, told.event, "past", joining=told.joining)
    if draw.chance(0.25):
        return f"{report}\n### {draw.choice(_CHAT_TITLES)}\n{told.text}"
    return f"{told.text}\n### {draw.choice(_REPORT_TITLES)}\n{report}"


def marked(world: World) -> str:
    """A chat, ``###`` right behind it, and what somebody noted of it: seldom a report."""
    draw = world.draw
    told = chat(draw, new_event(world))
    form = draw.weighted({"note": 5, "first": 3, "third": 2})
    if form == "third":
        report = recount(draw, told.event, "past", joining=told.joining)
        return f"{told.text}###{draw.choice(_REPORT_TITLES)}\n{report}"
    text = note(draw, told) if form == "note" else first_person(draw, told)
    return f"{told.text}###{text.lstrip()}"


def tagged(world: World) -> str:
    """A chat, ``###`` right behind it, and what it was about, in a word."""
    told = chat(world.draw, new_event(world))
    return f"{told.text}###Topic: {told.event.kind.replace('_', ' ')}"


def chat_then_retelling(world: World) -> str:
    """A chat and the same in the present tense, in a report's words."""
    draw = world.draw
    told = chat(draw, new_event(world))
    return told.text + draw.choice(CONNECTORS) + recount(draw, told.event, "present", joining=told.joining)


def sections(world: World) -> str:
    """Two or three short texts that have nothing to do with each other, parted by stars."""
    draw = world.draw
    makers = draw.sample((news, plans, story, facts.opinion, facts.figures, facts.query, facts.questions), 3)
    pieces = [make(world) for make in makers]
    return "\n* * *\n".join(pieces[: draw.between(2, 3)])


_CHAT_TITLES = ("The chat", "Messages", "What they wrote", "On the phone")
_REPORT_TITLES = ("Report", "What happened", "Later", "The story", "Afterwards", "In short", "From the protocol")

# how often each sort of document occurs in either stage
_SHARES: dict[int, dict[Callable[[World], str], float]] = {
    1: {
        chat_then_recount: 38,
        headed: 8,
        marked: 10,
        recount_then_chat: 7,
        chat_alone: 4,
        story: 7,
        news: 9,
        plans: 4,
        sections: 2,
        facts.facts: 4,
        facts.schema: 1.5,
        facts.query: 2,
        facts.opinion: 1.5,
        facts.questions: 1.5,
        facts.figures: 1.5,
    },
    2: {
        chat_then_recount: 6,
        chat_then_retelling: 10,
        tagged: 9,
        story: 2,
        news: 2,
        facts.facts: 7,
        facts.figures: 1,
        remarks.hearsay: 32,
        remarks.asked_again: 11,
        remarks.answered: 13,
        remarks.pairs: 8,
        remarks.exercise: 8,
        remarks.judged: 5,
        remarks.catalogue: 18,
    },
    3: {
        chat_then_retelling: 14,
        tagged: 12,
        facts.facts: 6,
        remarks.sheet: 80,
        remarks.hearsay: 4,
        remarks.answered: 4,
        remarks.catalogue: 14,
    },
}


def documents(seed: int, stage: int = 1) -> Iterator[str]:
    """An endless stream of plain-text documents of some 20 to 250 tokens, the same for the same seed and stage."""
    draw = Draw(seed)
    while True:
        world = World(draw, size=_WORLD_SIZE)
        for _ in range(_DOCUMENTS_PER_WORLD):
            yield draw.weighted(_SHARES[stage])(world)


def corpus(seed: int, characters: int, stage: int = 1) -> list[str]:
    """The first documents of ``documents(seed, stage)`` that together reach ``characters`` characters."""
    texts, size = [], 0
    for text in documents(seed, stage):
        if size >= characters:
            break
        texts.append(text)
        size += len(text)
    return texts
