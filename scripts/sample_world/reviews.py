"""Short reviews for or against something."""

from __future__ import annotations

from .draw import Draw
from .kind import Phrases
from .values import Place
from .words import Part, pool
from .world import World

GOOD = Phrases("""
wonderful
very good
lovely
excellent
great fun
charming
perfect
really nice
a real joy
a great success
better than I thought
first-class
* fantastic
* beautiful
* a pleasure
* worth every cent
""")
BAD = Phrases("""
terrible
really bad
boring
awful
far too long
disappointing
a waste of money
not worth it
a big mistake
worse than I thought
much too expensive
ugly
* horrible
* a disaster
* dull
* a waste of time
""")
MORE_GOOD = Phrases("""
I will come again.
I can only praise it.
Everybody smiled.
Ten points from me!
I was happy all evening.
I loved it.
* I told all my friends to go there.
* I want to have it again.
* My heart was singing.
""")
MORE_BAD = Phrases("""
Never again.
I was so angry.
I want my money back.
Two points out of ten.
I was sad all evening.
I hated it.
* I told all my friends to stay away.
* I will not do that again.
* My head was aching.
""")
FORMS = Phrases("""
{what} was {verdict}.
I thought {what} was {verdict}.
We found {what} {verdict}.
{verdict}, that was {what}.
{what}: {verdict}.
If you ask me, {what} was {verdict}.
* For me {what} was {verdict}.
* I must say that {what} was {verdict}.
* {what}? It was {verdict}.
""")


def review(world: World, good: bool) -> str:
    """One sentence or two with one opinion about one thing."""
    draw, part = world.draw, world.part
    slots = {"what": _subject(world), "verdict": draw.choice((GOOD if good else BAD).of(part))}
    text = draw.choice(FORMS.of(part)).format_map(slots)
    text = text[0].upper() + text[1:]
    form = draw.below(3)
    if form == 0:
        return text
    more = draw.choice((MORE_GOOD if good else MORE_BAD).of(part))
    return f"{text} {more}" if form == 1 else f"{more} {text}"


def _subject(world: World) -> str:
    draw, part = world.draw, world.part
    return draw.weighted({
        f"the film {_of(draw, 'films', part)}": 1,
        f"the dinner {Place(_of(draw, 'rooms', part)).at}": 1,
        f"the trip to {_of(draw, 'towns', part)}": 1,
        f"the {_of(draw, 'presents', part)} from {draw.choice(world.people)}": 1,
        f"the evening {Place(_of(draw, 'places', part)).at}": 1,
        _of(draw, "shows", part): 1,
    })  # fmt: skip


def _of(draw: Draw, name: str, part: Part) -> str:
    return draw.choice(pool(name, part))
