"""The sample world's words, choices, grammar and facts."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_world import words
from sample_world.dialogues import KINDS, new_event
from sample_world.draw import Draw
from sample_world.grammar import article, fill, inflect, listing
from sample_world.values import When, day, later
from sample_world.world import World

pytestmark = pytest.mark.slow

SEEDS = st.integers(0, 2**31)


@given(SEEDS, st.integers(1, 1000))
def test_draw_uses_only_the_promised_sequence(seed: int, limit: int) -> None:
    draw, oracle = Draw(seed), random.Random(seed)
    for _ in range(5):
        assert draw.below(limit) == int(oracle.random() * limit) < limit


@given(SEEDS, st.lists(st.integers(), max_size=30), st.data())
def test_sample_takes_different_positions(seed: int, items: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(items)))
    taken = Draw(seed).sample(items, count)
    assert len(taken) == count
    assert not Counter(taken) - Counter(items)
    assert Counter(Draw(seed).shuffled(items)) == Counter(items)


def test_shuffles_and_weights_are_fair() -> None:
    draw = Draw(0)
    orders = Counter(tuple(draw.shuffled((1, 2, 3))) for _ in range(6000))
    assert len(orders) == 6
    assert all(abs(n - 1000) < 150 for n in orders.values())  # 5 standard deviations
    picks = Counter(draw.weighted({"x": 3, "y": 1}) for _ in range(4000))
    assert abs(picks["x"] - 3000) < 140


def test_the_vocabulary_is_large_and_its_parts_disjoint() -> None:
    assert len(words.FEMALE) + len(words.MALE) >= 150
    assert not set(words.FEMALE) & set(words.MALE)
    assert len({*words.PLACES, *words.ROOMS, *words.TOWNS}) >= 60
    things = (words.TOOLS, words.MACHINES, words.BELONGINGS, words.PURCHASES, words.PRESENTS, words.SALE_ITEMS)
    assert len({thing for pool in things for thing in pool}) >= 100
    everywhere = {part: {w for name in words.names_of_pools() for w in words.pool(name, part)} for part in _PARTS}
    assert not everywhere["seen"] & everywhere["held"]


_PARTS: tuple[words.Part, ...] = ("seen", "held")


@pytest.mark.parametrize("name", words.names_of_pools())
def test_pools_are_free_of_doubles_and_split_in_two(name: str) -> None:
    every, seen, held = (words.pool(name, part) for part in ("all", "seen", "held"))
    assert len(set(every)) == len(every)
    assert seen
    assert held
    assert sorted(seen + held) == sorted(every)


@pytest.mark.parametrize(
    ("verb", "present", "past"),
    [
        ("be", "is", "was"),
        ("agree", "agrees", "agreed"),
        ("cost", "costs", "cost"),
        ("do", "does", "did"),
        ("enjoy", "enjoys", "enjoyed"),
        ("have", "has", "had"),
        ("miss", "misses", "missed"),
        ("plan", "plans", "planned"),
        ("travel", "travels", "travelled"),
        ("will", "will", "would"),
        ("worry", "worries", "worried"),
    ],
)
def test_verbs_take_their_forms(verb: str, present: str, past: str) -> None:
    assert inflect(verb, "present") == present
    assert inflect(verb, "past") == inflect(verb, "past", "=") == past


def test_verbs_agree_with_their_subject() -> None:
    text = "i <be> glad, it <=be> broken, they <+be> here and <+want> it"
    assert fill(text, {}, "spoken") == "I am glad, it is broken, they are here and want it"
    assert fill(text, {}, "past") == "I was glad, it was broken, they were here and wanted it"


def test_small_words() -> None:
    assert [article(w) for w in ("umbrella", "ukulele", "hat", "hour", "old clock", "unicycle")] == [
        "an umbrella",
        "a ukulele",
        "a hat",
        "an hour",
        "an old clock",
        "a unicycle",
    ]
    assert listing(["x"]) == "x"
    assert listing(["x", "y", "z"]) == "x, y and z"


@given(SEEDS)
def test_a_later_day_is_later(seed: int) -> None:
    draw = Draw(seed)
    first = day(draw)
    second = later(draw, first)
    assert _rank(second) > _rank(first)
    assert second.bare in second


def _rank(when: When) -> tuple[int, int]:
    lead, *rest = when.split()
    if len(rest) == 2:
        return words.MONTHS.index(rest[1]), int(rest[0])
    return int(lead == "next"), words.WEEKDAYS.index(rest[0])


@given(SEEDS, st.sampled_from(_PARTS), st.sampled_from(list(KINDS)))
def test_events_are_about_different_people_and_only_know_their_words(seed: int, part: words.Part, name: str) -> None:
    world = World(Draw(seed), part)
    assert len({p.name for p in world.people}) == len(world.people)
    event = new_event(world, name)
    names = [p.name for p in event.people.values()]
    assert len(set(names)) == 3
    assert set(names) <= set(words.pool("female", part) + words.pool("male", part))
    assert set(event.facts) == set(KINDS[name].facts)


@given(SEEDS)
def test_triples_speak_of_their_person(seed: int) -> None:
    world = World(Draw(seed))
    names = {p.name for p in world.people}
    for person in world.people:
        triples = world.triples(person)
        assert {subject for subject, _, _ in triples} == {person.name}
        tied = triples[0][2]
        assert tied in names - {person.name}
        assert person.town in [value for _, _, value in triples]
