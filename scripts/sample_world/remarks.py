"""Plain text in which somebody hears, asks, writes or judges something and somebody else remarks on it."""

from __future__ import annotations

from .corrupt import corrupted
from .genres import GENRES, Genre, changed, new_fact, of_others, tell
from .reviews import review
from .schemas import Table, ask, new_schema
from .words import pool
from .world import Event, World

_RIGHT = ("True.", "Right.", "Yes, exactly.")
_WRONG = ("False: {fact}", "Wrong: {fact}", "No, {fact}")
_UNKNOWN = ("Unknown.", "Nobody said that.", "Who knows?")
_SAME = ("The same question.", "Again the same.", "Asked twice.")
_DIFFERENT = ("A different question.", "Something else.", "New.")
_ANSWER = ("Answered.", "That answers it.", "Found: {fact}")
_NO_ANSWER = ("No answer.", "Not answered.", "Still open.")
_WELL = ("Well written.", "Good English.", "No mistake here.", "Correct.")
_BADLY = ("Better: {fact}", "There is a mistake. {fact}", "Bad English. It should be: {fact}", "Not correct: {fact}")
_PAIR, _NO_PAIR = ("a pair", "the same", "yes"), ("no pair", "different", "no")
_TURNED_OVER = ("female", "male", "places", "towns", "tools", "purchases", "pets", "dishes", "extras", "transport",
                "weekdays", "shops", "jobs")  # fmt: skip
_HEADINGS = ("tools", "pets", "presents", "belongings", "machines", "subjects", "hobbies")
_PRAISE = ("Recommended.", "Full of praise.", "A happy guest.", "Thumbs up.")
_BLAME = ("Not recommended.", "Full of anger.", "An unhappy guest.", "Thumbs down.")


# what comes first ("" for nothing), then claims, each with a remark on it
Remarks = tuple[str, list[tuple[str, str]]]


def hearsay(world: World) -> str:
    """Something is said, then repeated in whole or in part, rightly or not, with a remark on each repetition."""
    return _remarked(world, *_hearsay(world))


def asked_again(world: World) -> str:
    """Questions, and whether each is the one that was asked first."""
    return _remarked(world, *_asked_again(world, {"same": 2, "others": 1, "slot": 1}))


def answered(world: World) -> str:
    """A question, and sentences that answer it or do not."""
    return _remarked(world, *_answered(world))


def exercise(world: World) -> str:
    """One to three sentences of a pupil, some with a mistake, and what the teacher writes."""
    return _remarked(world, *_exercise(world))


def judged(world: World) -> str:
    """One to three reviews, each with a remark on its mood."""
    return _remarked(world, *_judged(world))


def sheet(world: World) -> str:
    """One claim and the remark on it, under a heading that has nothing to do with it, with marks between."""
    draw = world.draw
    make = draw.weighted({_hearsay: 6, _asked_anew: 7, _answered: 3, _exercise: 1.5, _judged: 1})
    first, claims = make(world)
    claim, remark = claims[0]
    return _heading(world) + "".join(f"{text}###" for text in (first, claim) if text) + remark


def _heading(world: World) -> str:
    draw = world.draw
    words = [draw.choice(pool(name)) for name in draw.sample(_HEADINGS, 2)]
    number = draw.below(10)
    texts = (
        f"{words[0].capitalize()}. ",
        f"Is it {words[0]} or {words[1]}? ",
        f"{number} for {words[0]}, {number + 1} for {words[1]}: ",
        f"Page {number}: ",
        f"Does {draw.choice(world.people)} know {draw.choice(world.people)}? ",
        f"{draw.choice(('What do you say of this', 'Do you think so', 'Can you read it', 'How was it'))}? ",
        f"{draw.choice(world.people)} asks if the {words[0]} is good for this {words[1]}. ",
        "From the protocol: ",
    )
    return "".join(draw.sample(texts, draw.between(0, 3)))


def _hearsay(world: World) -> Remarks:
    draw = world.draw
    genre = GENRES[draw.choice(list(GENRES))]
    fact = new_fact(world, genre)
    claims = []
    for _ in range(draw.between(1, 4)):
        slot = draw.choice(list(genre.facts))
        form = draw.weighted({"right": 4, "wrong": 3, "others": 1, "unknown": 1})
        if form == "unknown":
            claims.append((_of_another_genre(world, fact), draw.choice(_UNKNOWN)))
            continue
        told = fact
        if form != "right":
            told = changed(world, fact, slot) if form == "wrong" else of_others(world, fact)
        claim = _whole(world, genre, told) if draw.chance(0.4) else _one(world, genre, told, slot)
        remark = draw.choice({"right": _RIGHT, "wrong": _WRONG}.get(form, _UNKNOWN))
        claims.append((claim, remark.format(fact=_one(world, genre, fact, slot))))
    return _whole(world, genre, fact), claims


def _asked_again(world: World, forms: dict[str, float]) -> Remarks:
    draw = world.draw
    genre = GENRES[draw.choice(list(GENRES))]
    fact, slot = new_fact(world, genre), draw.choice(list(genre.facts))
    claims = []
    for _ in range(draw.between(1, 4)):
        form = draw.weighted(forms)
        if form == "matter":
            claims.append((_other_question(world, fact), draw.choice(_DIFFERENT)))
            continue
        other = of_others(world, fact) if form == "others" else fact
        slots = [name for name in genre.facts if name != slot] if form == "slot" else [slot]
        remark = draw.choice(_SAME if form == "same" else _DIFFERENT)
        claims.append((_asked(world, genre, other, draw.choice(slots)), remark))
    return _asked(world, genre, fact, slot), claims


def _asked_anew(world: World) -> Remarks:
    return _asked_again(world, {"same": 4, "others": 1, "slot": 1, "matter": 3})


def _answered(world: World) -> Remarks:
    draw = world.draw
    genre = GENRES[draw.choice(list(GENRES))]
    fact, slot = new_fact(world, genre), draw.choice(list(genre.facts))
    claims = []
    for _ in range(draw.between(1, 3)):
        form = draw.weighted({"answer": 2, "others": 1, "matter": 1})
        if form == "matter":
            sentence = _of_another_genre(world, fact)
        else:
            sentence = _whole(world, genre, of_others(world, fact) if form == "others" else fact)
        remark = draw.choice(_ANSWER if form == "answer" else _NO_ANSWER)
        claims.append((sentence, remark.format(fact=_one(world, genre, fact, slot))))
    return _asked(world, genre, fact, slot), claims


def pairs(world: World) -> str:
    """A game: things are turned over two by two, and some make a pair."""
    draw = world.draw
    name = draw.choice(_TURNED_OVER)
    lines = []
    for _ in range(draw.between(3, 7)):
        first, second = draw.sample(pool(name), 2)
        same = draw.chance(0.5)
        lines.append(f"{first}, {first if same else second}: {draw.choice(_PAIR if same else _NO_PAIR)}")
    return "\n".join(lines)


def _exercise(world: World) -> Remarks:
    draw = world.draw
    written = []
    for _ in range(draw.between(1, 3)):
        genre = GENRES[draw.choice(list(GENRES))]
        fact = new_fact(world, genre)
        slot = draw.choice(list(genre.facts))
        text = _whole(world, genre, fact) if draw.chance(0.6) else _one(world, genre, fact, slot)
        good = draw.chance(0.5)
        remark = draw.choice(_WELL if good else _BADLY).format(fact=text)
        written.append((text if good else corrupted(draw, text), remark))
    return "", written


def _judged(world: World) -> Remarks:
    draw = world.draw
    reviews = []
    for _ in range(draw.between(1, 3)):
        good = draw.chance(0.5)
        reviews.append((review(world, good), draw.choice(_PRAISE if good else _BLAME)))
    return "", reviews


def catalogue(world: World) -> str:
    """Tables with their columns, and one to three wishes, each with the query that fulfils it."""
    draw = world.draw
    schema = new_schema(draw, "all", rows=6)
    text = _notation(world, schema)
    lower, mark = draw.chance(0.5), draw.choice(("\n", "\n", "###", "\n> "))
    pairs = []
    for _ in range(draw.weighted({1: 3, 2: 1, 3: 1})):
        question = ask(draw, schema, "all", plain=True)
        pairs.append((question.text, question.query.lower() if lower else question.query))
    if len(pairs) == 1 and draw.chance(0.6):
        wish, query = pairs[0]
        return f"{wish}\n{text}{mark}{query}"
    return text + "\n" + "\n".join(f"{wish}{mark}{query}" for wish, query in pairs)


def _notation(world: World, schema: list[Table]) -> str:
    draw = world.draw
    typed, comma = draw.chance(0.5), draw.choice((", ", " , "))
    form, between = draw.choice(("{}: {}", "{}({})", "{} : {}")), draw.choice(("\n", " | "))
    keyed = draw.chance(0.5)
    texts = []
    for table in schema:
        columns = [f"{name} {kind}" if typed else name for name, kind in table.columns.items()]
        columns += ["key: id"] if keyed else []
        texts.append(form.format(table.name, comma.join(columns)))
    return draw.choice(("", "Schema: ", "The tables: ")) + between.join(texts)


def _remarked(world: World, first: str, claims: list[tuple[str, str]]) -> str:
    """What comes first, then each claim and the remark on it: said by two people, or noted with a mark between."""
    draw = world.draw
    lead = [first] if first else []
    form = draw.weighted({"talk": 2, "dash": 2, "mark": 4})
    if form == "talk":
        one, other = (person.name for person in draw.sample(world.people, 2))
        lines = [f"{one}: {text}" for text in lead]
        lines += [f"{other}: {claim}\n{one}: {remark}" for claim, remark in claims]
    else:
        mark = "###" if form == "mark" else " - "
        lines = lead + [f"{claim}{mark}{remark}" for claim, remark in claims]
    return "\n".join(lines)


def _whole(world: World, genre: Genre, fact: Event) -> str:
    return tell(world.draw.choice(genre.whole.of("all")), fact)


def _one(world: World, genre: Genre, fact: Event, slot: str) -> str:
    return tell(world.draw.choice(genre.parts[slot].of("all")), fact)


def _asked(world: World, genre: Genre, fact: Event, slot: str) -> str:
    return tell(world.draw.choice(genre.asked[slot].of("all")), fact)


def _of_another_genre(world: World, fact: Event) -> str:
    """A sentence about the same people, but on something else."""
    draw = world.draw
    genre = GENRES[draw.choice([name for name in GENRES if name != fact.kind])]
    other = Event(genre.name, fact.people, new_fact(world, genre).facts)
    return (
        _whole(world, genre, other) if draw.chance(0.4) else _one(world, genre, other, draw.choice(list(other.facts)))
    )


def _other_question(world: World, fact: Event) -> str:
    """A question about the same people, but on something else."""
    genre = GENRES[world.draw.choice([name for name in GENRES if name != fact.kind])]
    other = Event(genre.name, fact.people, new_fact(world, genre).facts)
    return _asked(world, genre, other, world.draw.choice(list(genre.facts)))
