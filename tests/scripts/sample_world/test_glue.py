"""GLUE's rows in the sample world: balanced, unique, nothing shared between splits but days, times and amounts."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_world import reviews, words
from sample_world.corrupt import corrupted
from sample_world.draw import Draw
from sample_world.genres import GENRES, changed, new_fact, of_others, tell
from sample_world.glue import glue_rows
from sample_world.prose import corpus
from sample_world.world import World

from ssm_tune.utils.errors import UserError

pytestmark = pytest.mark.slow

COLUMNS = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
}
SIZES = {"train": 1000, "val": 300}
# of the json of all members' rows in both splits; a change of it is a change of the data
SHA256 = "daa13493e2d98f3619ea4df0c57a20df08075e24fefabd5c7afb56af7b8d6753"
MEMBERS = pytest.mark.parametrize("member", list(COLUMNS))


def _texts(member: str, split: str) -> list[str]:
    return ["\n".join(row[column] for column in COLUMNS[member]) for row in glue_rows(member, split)]


def test_rows_never_change() -> None:
    rows = [glue_rows(member, split) for member in COLUMNS for split in SIZES]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == SHA256


@MEMBERS
def test_rows_have_the_hubs_columns_and_equally_many_labels(member: str) -> None:
    for split, size in SIZES.items():
        rows = glue_rows(member, split)
        if split == "train" and member in ("mrpc", "qqp"):
            size = 2600
        assert [row["idx"] for row in rows] == list(range(size))
        extra = {"half"} if (member, split) == ("mnli", "val") else set()
        assert all(set(row) == {*COLUMNS[member], "label", "idx"} | extra for row in rows)
        counts = Counter(row["label"] for row in rows)
        assert sorted(counts) == list(range(3 if member == "mnli" else 2))
        assert max(counts.values()) - min(counts.values()) <= 1


@MEMBERS
def test_rows_are_unique_whole_sentences(member: str) -> None:
    every = _texts(member, "train") + _texts(member, "val")
    assert len(set(every)) == len(every)
    for text in every:
        assert text.isascii()
        assert re.fullmatch(r"([A-Z0-9][^\n]*[.!?]\n?)+", text), text
        assert not re.search(r"[<>{}\[\]|=#]|  ", text), text


@MEMBERS
def test_validation_shows_only_held_out_words(member: str) -> None:
    train, val = "\n".join(_texts(member, "train")), "\n".join(_texts(member, "val"))
    for pool in ("female", "male", "towns", "dishes", "tools", "purchases", "pets", "films", "shows"):
        assert not [word for word in words.pool(pool, "held") if re.search(rf"\b{re.escape(word)}\b", train)], pool
        assert not [word for word in words.pool(pool, "seen") if re.search(rf"\b{re.escape(word)}\b", val)], pool


def test_validation_shows_only_held_out_phrasings() -> None:
    for genre in GENRES.values():
        for phrases in (genre.whole, *genre.parts.values(), *genre.asked.values()):
            assert phrases.of("seen")
            assert phrases.of("held")
            assert not set(phrases.of("seen")) & set(phrases.of("held"))
        # pairs in other words need two
        for phrases in (genre.whole, *genre.asked.values()):
            assert min(len(phrases.of("seen")), len(phrases.of("held"))) >= 2
    train, val = "\n".join(_texts("sst2", "train")), "\n".join(_texts("sst2", "val"))
    for phrases in (reviews.GOOD, reviews.BAD, reviews.MORE_GOOD, reviews.MORE_BAD):
        assert not any(re.search(rf"(?i)\b{re.escape(phrase)}", train) for phrase in phrases.of("held"))
        assert not any(re.search(rf"(?i)\b{re.escape(phrase)}", val) for phrase in phrases.of("seen"))


def test_the_halves_of_mnli_are_of_different_genres() -> None:
    rows = glue_rows("mnli", "val")
    assert Counter(row["half"] for row in rows) == {"matched": 150, "mismatched": 150}
    borrowed = {
        half: sum(
            bool(re.search(r"\b(from|gives|bring)\b.*\b(return|again|bring)|make", row["premise"]))
            for row in rows
            if row["half"] == half
        )
        for half in ("matched", "mismatched")
    }
    assert borrowed["mismatched"] > 100 > 20 > borrowed["matched"]


def test_reviews_are_of_one_mind() -> None:
    for split in SIZES:
        for row in glue_rows("sst2", split):
            other = (reviews.BAD, reviews.MORE_BAD) if row["label"] else (reviews.GOOD, reviews.MORE_GOOD)
            mine = (reviews.GOOD, reviews.MORE_GOOD) if row["label"] else (reviews.BAD, reviews.MORE_BAD)
            found = [
                any(p.lower() in row["sentence"].lower() for phrases in side for p in phrases.of("all"))
                for side in (mine, other)
            ]
            assert found == [True, False], row


@given(st.integers(0, 2**31), st.sampled_from(list(GENRES)))
def test_changes_change_one_slot_or_the_people(seed: int, name: str) -> None:
    world = World(Draw(seed))
    fact = new_fact(world, GENRES[name])
    slot = world.draw.choice(list(fact.facts))
    other = changed(world, fact, slot)
    assert {key for key in fact.facts if str(fact.facts[key]) != str(other.facts[key])} == {slot}
    assert dict(other.people) == dict(fact.people)
    strangers = of_others(world, fact)
    assert strangers.facts == fact.facts
    assert not {p.name for p in strangers.people.values()} & {p.name for p in fact.people.values()}


@given(st.integers(0, 2**31), st.sampled_from(list(GENRES)))
def test_a_corrupted_sentence_is_another_one_with_nearly_the_same_words(seed: int, name: str) -> None:
    world = World(Draw(seed))
    genre = GENRES[name]
    for phrase in (*genre.whole.of("all"), *(p for part in genre.parts.values() for p in part.of("all"))):
        text = tell(phrase, new_fact(world, genre))
        wrong = corrupted(world.draw, text)
        assert wrong != text
        before, after = Counter(text.rstrip(".").split()), Counter(wrong.rstrip(".").split())
        assert (before - after).total() <= 2
        assert (after - before).total() <= 2


def test_plain_text_never_has_a_labelled_form() -> None:
    text = "\n".join(corpus(0, 500_000, 2) + corpus(0, 2_000_000, 3))
    assert "###" in text
    assert not re.search(r"###\s*[0-9]", text)  # behind a mark stand words, never a label's digit
    assert not re.search(r"(?i)entailment|paraphrase|acceptable|sentiment|hypothesis|premise", text)


@pytest.mark.parametrize(("member", "split"), [("wnli", "train"), ("rte", "test")])
def test_unknown_members_and_splits(member: str, split: str) -> None:
    with pytest.raises(UserError, match=f"'{member if member == 'wnli' else split}'.*use one of"):
        glue_rows(member, split)


def test_labels_follow_from_the_texts() -> None:
    """An oracle that reads: what a duplicate or a paraphrase shares, word for word."""

    def names(text: str) -> set[str]:
        return set(re.findall(r"\w+", text)) & people

    people = {*words.FEMALE, *words.MALE}
    shared: dict[tuple[str, Any], list[bool]] = {}
    for member, (first, second) in ((m, c) for m, c in COLUMNS.items() if len(c) == 2):
        for row in glue_rows(member, "train"):
            shared.setdefault((member, row["label"]), []).append(bool(names(row[first]) & names(row[second])))
    # the same people stand in everything that follows, answers or says the same
    for key in (("mrpc", 1), ("qqp", 1), ("rte", 0), ("qnli", 0), ("mnli", 0)):
        assert all(shared[key]), key
    # and others in half of the sentences that do not answer, a quarter of what does not follow or is another matter
    assert 0.4 < sum(shared["qnli", 1]) / len(shared["qnli", 1]) < 0.65
    assert 0.6 < sum(shared["rte", 1]) / len(shared["rte", 1]) < 0.9
