"""Events told in other words than a summary's: reports, diaries, letters, notes."""

from __future__ import annotations

from .dialogues import KINDS, Chat
from .draw import Draw
from .grammar import Tense, fill, listing
from .values import When
from .world import Event

# After a chat: what leads over to a text in the third person.
CONNECTORS = (
    "\n\n", "\n\n", "\n\n", "\n\nLater: ", "\n\nWhat happened: ", "\n\nReport: ", "\n\nReport\n", "\n\nThe story: ",
    "\n\nThat was the chat. ", "\n\n- - -\n\n", "\nSo it was arranged. ", "\n\nSome days later: ",
    "\n\nA neighbour remembers: ", "\n\nFrom the protocol: ",
)  # fmt: skip

_AFTERWARDS = (
    "It was a long day.", "Nobody thought of it any more until then.", "{a} was in a good mood after that.",
    "Then {b} went to bed.", "The rain stopped soon after.", "{b} wrote it down at once.", "{a} was glad about it.",
    "Outside it was getting dark.", "Everybody was content.", "{b} smiled and put the phone away.",
)  # fmt: skip
_AFTERWARDS_OWN = (
    "I am tired now.", "What a day!", "I am glad about it.", "I must not forget it.", "Now I will read a little.",
    "The weather was nice.",
)  # fmt: skip
_DIARIES = ("\n\nDiary of {name}:\n{text}", "\n\n{name} wrote in the diary: {text}", "\n\nFrom {name}'s diary\n{text}")
_LETTERS = (
    "\n\n{name} to {reader}\n\nDear {reader},\n{text}\nYours, {name}",
    "\n\nA letter from {name}\n\nDear {reader}, {text} Love, {name}",
)


def recount(draw: Draw, event: Event, tense: Tense, narrator: str | None = None, joining: str = "") -> str:
    """The event in one to three sentences, in the past or present; the narrator, a or b, says "I"."""
    text = draw.choice(KINDS[event.kind].recount.of("all"))
    if joining:
        text += " " + joining.split(" => ")[2]
    return fill(text, event.slots(tense, narrator), tense)


def third_person(draw: Draw, told: Chat) -> str:
    """A connector and the chat's matter in the past, told by somebody else."""
    lead = draw.choice(CONNECTORS)
    text = recount(draw, told.event, "past", joining=told.joining)
    if draw.chance(0.35):
        text += " " + draw.choice(_AFTERWARDS).format_map(told.event.people)
    return lead + text


def first_person(draw: Draw, told: Chat) -> str:
    """A diary entry, or a letter to a third person, of one of the two who talked."""
    narrator = draw.choice("ab")
    name = told.event.people[narrator].name
    text = recount(draw, told.event, "past", narrator, told.joining)
    if draw.chance(0.35):
        text += " " + draw.choice(_AFTERWARDS_OWN)
    form = draw.choice(_DIARIES)
    if not told.joining and not KINDS[told.event.kind].names_c and draw.chance(0.4):
        form = draw.choice(_LETTERS)  # to c, who is not in the story
    return form.format(name=name, text=text, reader=told.event.people["c"].name)


def note(draw: Draw, told: Chat) -> str:
    """The chat's facts as a note: who, when, and the rest by one word each."""
    event = told.event
    people = [event.people["a"].name, event.people["b"].name]
    when = [fact for fact in event.facts.values() if isinstance(fact, When)]
    lines = [f"who: {listing(people)}", f"when: {', '.join(when)}"]
    rest = [f"{slot}: {fact}" for slot, fact in event.facts.items() if isinstance(fact, str) and fact not in when]
    return draw.choice(("\n\nNote\n", "\n\n", "\n\nTo remember:\n")) + "\n".join(lines + rest)
