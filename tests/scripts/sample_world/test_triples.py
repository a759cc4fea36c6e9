"""DART's entries in the sample world, and the plain answers that need no model."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_world import words
from sample_world.baselines import baseline, commonest_query, copied, first_turn, majority
from sample_world.draw import Draw
from sample_world.prose import corpus
from sample_world.triples import dart_rows, reference
from sample_world.world import World

from ssm_tune.tasks.base import Example
from ssm_tune.utils.errors import UserError

pytestmark = pytest.mark.slow

SIZES = {"train": 400, "val": 60, "test": 120}
SHA256 = "def8540813f1b3e83f10137a6301949a112eea6c0270477a6031dba5d70ab6e1"


def _texts(split: str) -> list[str]:
    return [annotation["text"] for row in dart_rows(split) for annotation in row["annotations"]]


def test_entries_never_change() -> None:
    rows = [dart_rows(split) for split in SIZES]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == SHA256


def test_entries_have_darts_form() -> None:
    for split, size in SIZES.items():
        rows = dart_rows(split)
        assert len(rows) == size
        assert len({json.dumps(row["tripleset"]) for row in rows}) == size
        assert set(Counter(len(row["tripleset"]) for row in rows)) == {1, 2, 3}
        for row in rows:
            assert set(row) == {"tripleset", "annotations"}
            assert all(
                len(triple) == 3 and all(isinstance(part, str) for part in triple) for triple in row["tripleset"]
            )
            assert len({subject for subject, _, _ in row["tripleset"]}) == 1
            assert 1 <= len(row["annotations"]) <= 3
            assert all(set(annotation) == {"source", "text"} for annotation in row["annotations"])


def test_references_say_every_triple() -> None:
    for split in SIZES:
        for row in dart_rows(split):
            for annotation in row["annotations"]:
                for subject, _, value in row["tripleset"]:
                    assert subject in annotation["text"]
                    assert value in annotation["text"]
                assert re.fullmatch(r"[A-Z][^\n|#{}]*\.", annotation["text"])
                assert not re.search(r"\ba [aeio]|\ban [^aeiou]|  ", annotation["text"])


def test_validation_and_test_show_only_held_out_words_and_phrasings() -> None:
    train, others = "\n".join(_texts("train")), "\n".join(_texts("val") + _texts("test"))
    for pool in ("female", "male", "towns", "pets", "hobbies"):
        assert not [word for word in words.pool(pool, "held") if re.search(rf"\b{word}\b", train)], pool
        assert not [word for word in words.pool(pool, "seen") if re.search(rf"\b{word}\b", others)], pool
    assert not re.search(r"does the work of|is a resident of|has reached the age of|is keen on|shares the house", train)
    assert not re.search(r"employed|flat|aged|fond of|keeps", others)


def test_plain_text_has_triples_but_no_reference() -> None:
    text = "\n".join(corpus(0, 1_000_000, 1) + corpus(0, 500_000, 2) + corpus(0, 500_000, 3))
    assert re.search(r"(?m)^\w+ : [A-Z_]+ : ", text)
    assert not [reference for split in SIZES for reference in _texts(split) if reference in text]


@given(st.integers(0, 2**31), st.sampled_from(["all", "seen", "held"]), st.integers(1, 3))
def test_any_triples_can_be_said(seed: int, part: words.Part, count: int) -> None:
    world = World(Draw(seed), part)
    person = world.draw.choice(world.people)
    triples = world.draw.sample(world.triples(person), count)
    text = reference(world.draw, person, triples, part)
    assert all(value in text for _, _, value in triples)
    assert not re.search(r"[{}]", text)


def test_unknown_split() -> None:
    with pytest.raises(UserError, match=r"'dev'.*train, val, test"):
        dart_rows("dev")


def _example(prompt: str, target: str) -> Example:
    return Example("0", prompt, target, (target,))


def test_plain_answers_of_text_tasks() -> None:
    train = [_example("x###", label) for label in "10110"]
    two = [_example("Anna: Hi, Tom!\nTom: Hello: you!###", ""), _example("Ben: Is it 5:30?###", "")]
    assert majority(train, two) == ["1", "1"]
    assert majority(train[1:], two) == ["0", "0"]  # a tie
    assert first_turn(train, two) == ["Hi, Tom!", "Is it 5:30?"]
    assert copied(train, [_example("A : B : C | D : E : F###", "")]) == ["A : B : C | D : E : F"]
    assert baseline("glue_rte")[1] is majority
    assert baseline("samsum")[1] is first_turn


def test_the_commonest_query_is_asked_of_the_first_table() -> None:
    cats = "Question: q\nSchema: cats: id number ,  age number ,  foreign:  ,  primary: id\n###"
    dogs = (
        "Question: q\nSchema: dogs: id number ,  size number ,  name text ,  foreign:  ,  primary: id | "
        "cats: id number ,  age number ,  foreign: id from dogs ,  primary: id\n###"
    )
    train = [
        _example(cats, "SELECT age FROM cats WHERE id = 'age'"),
        _example(dogs, "SELECT name FROM dogs WHERE size = 'age'"),
        _example(dogs, "SELECT count(*) FROM dogs"),
    ]
    # values are no columns, and are kept
    assert commonest_query(train, [_example(dogs, "")]) == ["SELECT size FROM dogs WHERE name = 'age'"]
