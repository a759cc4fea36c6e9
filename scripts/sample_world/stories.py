"""Text without a chat: stories in the past, news in the present, plans with "will"."""

from __future__ import annotations

from .dialogues import new_event
from .grammar import fill
from .recounts import recount
from .world import World

_INTRODUCTIONS = (
    "{p} was {p.age} years old and worked as {p.job.a} {p.job.at}.",
    "There was once {p.job.a} in {p.town} whose name was {p}.",
    "{p} lived in {p.town} with a {p.pet}.",
    "In those days {p} was {p.job.a} and liked {p.hobby}.",
    "{p}, {p.job.a} from {p.town}, had an eventful week.",
)
_LINKS = ("", "", "Then ", "After that, ", "The same week ", "A little later ", "Meanwhile ")
_ENDINGS = (
    "That was how the week ended.",
    "In the end all was well.",
    "{p} talked about it for a long time.",
    "And {p} was happy.",
    "Nothing more happened in {p.town} that month.",
)
_HEADLINES = ("News of the week", "From the neighbourhood", "In town", "What is new?", "", "", "Overheard", "Gossip")
_PLANS = (
    "{a} and {b} will meet {place.at} {day} {time}.",
    "{a} will see {b} {day} {place.at}.",
    "{a} will bring {extra} and {b} will cook {dish}.",
    "{a} will travel to {town} {how} {day} and come back {day2}.",
    "{b} will pick {a.o} up {time} in {street}.",
    "{a} will look after {b.s} {pet} until {day.bare}.",
    "{a} will lend {b.o} {a.his} {tool}, and {b} will return it {day}.",
    "{a} will buy {thing.a} {shop.at} for {price}.",
    "{b} has to go {duty} {day}, so {a} will help {b.s} sister.",
    "{a} is going to {town} {day}. {a.he} will leave {time}.",
    "{a} will help {b.o} with {subject} {place.at} {time}.",
    "{a} starts as {job.a} {job.at} {day}. {b} will celebrate it with {a.him}.",
    "{a} needs {tool.a}, so {b} will come {time} with one.",
    "{a} has {illness} and will stay at home until {day.bare}.",
    "{a} will give {b.o} {gift.a} for {b.his} birthday {day}.",
    "{b} wants to {what} {day}, and {a} will join {b.him} {place.at}.",
    "{a} can't find {a.his} {lost}. {b} will look for it {place.at}.",
    "{b} will repair {a.s} {machine} {day} {time} and get {reward}.",
    "{a} will sell {a.his} {sale} to {b} and give {b.him} the money back if it is broken.",
    "{a} and {b} are going to {show} {day}. It costs {price}.",
)  # fmt: skip
_SOURCES = {
    "place": "places", "day": "day", "day2": "later", "time": "time", "extra": "extras", "dish": "dishes",
    "town": "towns", "how": "transport", "street": "streets", "pet": "pets", "tool": "tools", "thing": "purchases",
    "shop": "shops", "price": "price", "duty": "duties", "subject": "subjects", "job": "jobs", "gift": "presents",
    "illness": "illnesses", "what": "activities", "lost": "belongings", "machine": "machines", "reward": "rewards",
    "sale": "sale_items", "show": "shows",
}  # fmt: skip


def story(world: World) -> str:
    """A short tale in the past: somebody is introduced, two or three things happen."""
    draw = world.draw
    hero = draw.choice(world.people)
    parts = [draw.choice(_INTRODUCTIONS).format(p=hero)]
    parts += [recount(draw, new_event(world), "past") for _ in range(draw.between(2, 3))]
    parts.append(draw.choice(_ENDINGS).format(p=hero))
    return draw.choice((" ", " ", "\n")).join(parts)


def news(world: World) -> str:
    """One to three events in the present tense; sometimes a headline whose story then comes in the past."""
    draw = world.draw
    headline = draw.choice(_HEADLINES)
    if draw.chance(0.3):
        event = new_event(world)
        text = f"{recount(draw, event, 'present')}\n\n{recount(draw, event, 'past')}"
    else:
        text = draw.choice((" ", "\n")).join(
            recount(draw, new_event(world), "present") for _ in range(draw.between(1, 3))
        )
    return f"{headline}\n{text}" if headline else text


def plans(world: World) -> str:
    """What some people will do, one sentence or two for each plan."""
    draw = world.draw
    texts = [_plan(world) for _ in range(draw.between(2, 4))]
    lead = draw.choice(("", "", "Plans\n", "The next days: ", "What is to come\n"))
    return lead + draw.choice((" ", "\n")).join(texts)


def _plan(world: World) -> str:
    event = world.event("plan", _SOURCES, "ab")
    return fill(world.draw.choice(_PLANS), event.slots("present"), "present")
