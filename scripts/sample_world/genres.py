"""Sorts of facts that are told in one sentence, in part, or asked for: what pairs of sentences are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from .draw import Draw
from .grammar import fill
from .kind import Phrases
from .values import draw_facts
from .words import Part
from .world import Event, World


@dataclass(frozen=True)
class Genre:
    """What is said of person a (and b, where ``b`` occurs).

    ``whole`` states every fact; ``parts`` one of them, by its slot; ``asked`` asks for one.
    """

    name: str
    facts: Mapping[str, str]
    whole: Phrases
    parts: Mapping[str, Phrases]
    asked: Mapping[str, Phrases]


def _genre(name: str, facts: str, *, whole: str, parts: str, asked: str) -> Genre:
    """A genre whose facts are written ``slot=pool slot=pool``, its parts and questions ``slot: sentence``."""
    sources = dict(item.split("=") for item in facts.split())
    return Genre(name, sources, Phrases(whole), _by_slot(parts), _by_slot(asked))


def _by_slot(text: str) -> dict[str, Phrases]:
    lines: dict[str, list[str]] = {}
    for line in text.strip().splitlines():
        sentence = line.strip().removeprefix("* ")
        slot, _, sentence = sentence.partition(": ")
        held = "* " if line.strip().startswith("* ") else ""
        lines.setdefault(slot, []).append(held + sentence)
    return {slot: Phrases("\n".join(sentences)) for slot, sentences in lines.items()}


HOME = _genre(
    "home",
    "job=jobs town=towns pet=pets",
    whole="""
    {a} is {job.a} from {town} and has {pet.a}.
    {a} works as {job.a}, lives in {town} and owns {pet.a}.
    {a}, {job.a} with {pet.a}, lives in {town}.
    {a} has {pet.a} and works as {job.a} in {town}.
    * {a} lives in {town} with {pet.a} and is {job.a}.
    * In {town} lives {a}, {job.a} who has {pet.a}.
    """,
    parts="""
    job: {a} is {job.a}.
    job: {a} works as {job.a}.
    * job: {a} earns money as {job.a}.
    town: {a} lives in {town}.
    town: {a} comes from {town}.
    * town: {a} has a home in {town}.
    pet: {a} has {pet.a}.
    pet: {a} owns {pet.a}.
    * pet: {a} lives with {pet.a}.
    """,
    asked="""
    job: What is {a.s} job?
    job: What does {a} work as?
    * job: What is the job of {a}?
    * job: How does {a} earn money?
    town: Where does {a} live?
    town: In which town does {a} live?
    * town: Where is {a.s} home?
    * town: What town does {a} come from?
    pet: What pet does {a} have?
    pet: Which animal lives with {a}?
    * pet: What animal does {a} own?
    * pet: Which pet lives at {a.s} home?
    """,
)
TRIP = _genre(
    "trip",
    "town=towns how=transport day=day",
    whole="""
    {a} will go to {town} {how} {day}.
    {day} {a} is going to {town} {how}.
    {a} travels to {town} {day}. {a.he} goes {how}.
    {a} wants to be in {town} {day} and to get there {how}.
    * {day} {a} will leave for {town} {how}.
    * {a} plans a trip to {town} {day} and will go {how}.
    """,
    parts="""
    town: {a} is going to {town}.
    town: {a} will be in {town}.
    * town: {a} will leave for {town}.
    how: {a} travels {how}.
    how: {a} will get there {how}.
    * how: {a} will be on the way {how}.
    day: {a} travels {day}.
    day: {a} will be away {day}.
    * day: {a} will leave {day}.
    """,
    asked="""
    town: Where is {a} going?
    town: To which town does {a} travel?
    * town: Which town will {a} leave for?
    * town: Where does {a} want to be?
    how: How does {a} travel?
    how: How will {a} get there?
    * how: How is {a} going there?
    * how: What is {a.s} way of travel?
    day: When does {a} travel?
    day: On which day is {a} going away?
    * day: When will {a} leave?
    * day: What day is {a.s} trip?
    """,
)
PURCHASE = _genre(
    "purchase",
    "thing=purchases shop=shops price=price",
    whole="""
    {a} bought {thing.a} {shop.at} for {price}.
    {a} paid {price} for {thing.a} {shop.at}.
    {a} has a new {thing}. {a.he} found it {shop.at} and paid {price}.
    For {price} {a} got {thing.a} {shop.at}.
    * {a} found {thing.a} {shop.at}. It cost {price}.
    * {a} spent {price} {shop.at} and came home with {thing.a}.
    """,
    parts="""
    thing: {a} bought {thing.a}.
    thing: {a} has a new {thing}.
    * thing: {a} came home with {thing.a}.
    shop: {a} bought it {shop.at}.
    shop: {a} found it {shop.at}.
    * shop: {a} got it {shop.at}.
    price: {a} paid {price}.
    price: {a} bought it for {price}.
    * price: {a} spent {price}.
    """,
    asked="""
    thing: What did {a} buy?
    thing: Which new thing does {a} have?
    * thing: What did {a} find?
    * thing: What did {a} spend the money on?
    shop: Where did {a} buy it?
    shop: In which shop was {a}?
    * shop: Where did {a} find it?
    * shop: Where did {a} get it?
    price: How much did {a} pay?
    price: What did it cost {a}?
    * price: How much did {a} spend?
    * price: What was the price for {a}?
    """,
)
MEETING = _genre(
    "meeting",
    "place=places day=day time=time",
    whole="""
    {a} and {b} will meet {place.at} {day} {time}.
    {a} will see {b} {day} {time} {place.at}.
    {day} {time} {a} and {b} will be {place.at}.
    {a} wants to meet {b} {time} {day}. They will be {place.at}.
    * {a} will meet {b} {place.at}. They will be there {day} {time}.
    * {day} {a} will be {place.at} {time} to see {b}.
    """,
    parts="""
    place: {a} will be {place.at}.
    place: {a} and {b} will meet {place.at}.
    * place: {a} will see {b} {place.at}.
    day: {a} will meet {b} {day}.
    day: {a} will see {b} {day}.
    * day: {a} and {b} will meet {day}.
    time: {a} will be there {time}.
    time: {a} and {b} will meet {time}.
    * time: {a} will see {b} {time}.
    """,
    asked="""
    place: Where will {a} meet {b}?
    place: At which place will {a} be?
    * place: Where will {a} see {b}?
    * place: Where do {a} and {b} want to meet?
    day: On which day will {a} meet {b}?
    day: What day will {a} see {b}?
    * day: On what day do {a} and {b} want to meet?
    * day: Which day will {a} and {b} see each other?
    time: At what time will {a} be there?
    time: What time will {a} meet {b}?
    * time: At which hour do {a} and {b} want to meet?
    * time: What time will {a} see {b}?
    """,
)
LOAN = _genre(
    "loan",
    "thing=tools day=day",
    whole="""
    {a} borrows {thing.a} from {b} and will return it {day}.
    {b} lends {a} {thing.a} and wants it back {day}.
    {a} has {b.s} {thing} and must bring it back {day}.
    * {a} gets {thing.a} from {b} and has to return it {day}.
    * {b} gives {a} {thing.a}, but needs it again {day}.
    """,
    parts="""
    thing: {a} borrows {thing.a}.
    thing: {a} has {b.s} {thing}.
    * thing: {a} gets {thing.a}.
    day: {a} will return it {day}.
    day: {b} wants it back {day}.
    * day: {b} needs it again {day}.
    """,
    asked="""
    thing: What does {a} borrow?
    thing: Which thing does {a} borrow?
    * thing: What does {a} get?
    * thing: Which thing will {a} get?
    day: When will {a} return it?
    day: On which day will {a} bring it back?
    * day: When must {a} return it?
    * day: What day must {a} bring it back?
    """,
)
DINNER = _genre(
    "dinner",
    "dish=dishes extra=extras day=day",
    whole="""
    {a} is cooking {dish} {day}. {b} will bring {extra}.
    {day} there will be {dish} at {a.s} place and {extra} from {b}.
    {b} will bring {extra} {day}, because {a} is making {dish}.
    * {a} will make {dish} {day}, and {b} will come with {extra}.
    * {day} {b} will eat {dish} with {a} and bring {extra}.
    """,
    parts="""
    dish: {a} is cooking {dish}.
    dish: There will be {dish} at {a.s} place.
    * dish: {b} will eat {dish}.
    extra: {b} will bring {extra}.
    extra: There will be {extra} from {b}.
    * extra: {b} will come with {extra}.
    day: {a} is cooking {day}.
    day: {b} will come {day}.
    * day: {a} will see {b} {day}.
    """,
    asked="""
    dish: What is {a} cooking?
    dish: Which dish will there be at {a.s} place?
    * dish: Which dish will {a} make?
    * dish: What is there to eat at {a.s} home?
    extra: What will {b} bring?
    extra: What is {b} going to bring?
    * extra: What will {b} come with?
    * extra: Which thing will be from {b}?
    day: When is {a} cooking?
    day: On which day is {a} cooking?
    * day: When will {a} make dinner?
    * day: What day is the dinner at {a.s} place?
    """,
)
GENRES: dict[str, Genre] = {genre.name: genre for genre in (HOME, TRIP, PURCHASE, MEETING, LOAN, DINNER)}


def new_fact(world: World, genre: Genre) -> Event:
    """Something of the genre that happens to two people of the world."""
    return world.event(genre.name, genre.facts, "ab")


def changed(world: World, event: Event, slot: str) -> Event:
    """The same with another value in ``slot``."""
    source = {slot: GENRES[event.kind].facts[slot]}
    while True:
        other = draw_facts(source, world.draw, world.part)[slot]
        if str(other) != str(event.facts[slot]):
            return dataclasses.replace(event, facts={**event.facts, slot: other})


def of_others(world: World, event: Event) -> Event:
    """The same, but of two people who were not in it."""
    taken = {person.name for person in event.people.values()}
    strangers = world.draw.sample([person for person in world.people if person.name not in taken], 2)
    return dataclasses.replace(event, people=dict(zip("ab", strangers, strict=True)))


def tell(phrase: str, event: Event) -> str:
    """``phrase`` of the event's genre in words."""
    return fill(phrase, event.slots("present"), "present")


def two_forms(draw: Draw, phrases: Phrases, part: Part) -> tuple[str, str]:
    """Two different phrasings."""
    first, second = draw.sample(phrases.of(part), 2)
    return first, second
