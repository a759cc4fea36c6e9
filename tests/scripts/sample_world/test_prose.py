"""The plain text of the sample world: the same everywhere, varied, whole sentences, no labelled pair."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_world import words
from sample_world.dialogues import KINDS, chat, new_event
from sample_world.draw import Draw
from sample_world.prose import corpus, documents
from sample_world.recounts import first_person, recount
from sample_world.world import World

pytestmark = pytest.mark.slow

# of the first 2,000 documents of seed 0 in each stage; a change of it is a change of the pretraining text
SHA256 = {
    1: "bd0dd900b1c19819c4c0525f59781668ba13b5b92987287a99cf9e3653c0ca98",
    2: "6ecad4d374b04cecdcc43dd6ddd377b0c9f061c4a681d0d9e9525325f3da210b",
    3: "4ad68d032d7852a48e3cad21e7087582c35d0cd31c8c542fb13e803c55efbfd6",
}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return corpus(1, 2_000_000)


@pytest.mark.parametrize("stage", list(SHA256))
def test_documents_never_change(stage: int) -> None:
    text = "\0".join(islice(documents(0, stage), 2000))
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256[stage]
    assert text != "\0".join(islice(documents(1, stage), 2000))


def test_corpus_is_the_beginning_of_the_stream() -> None:
    some = corpus(5, 30_000)
    assert some == list(islice(documents(5), len(some)))
    assert sum(map(len, some[:-1])) < 30_000 <= sum(map(len, some))


def test_documents_are_clean(texts: list[str]) -> None:
    for text in texts:
        assert text == text.strip()
        assert text.isascii()
        assert 10 <= len(text) <= 1300, text
        assert not re.search(r"[{}\[\]]|<[=+]?\w+>|\bNone\b|  |\bcan not\b|\b(\w+) \1\b", text), text
        assert not re.search(r"\b[Aa] [aeio]\w|\b[Aa]n [^aeiou]\w", text), text  # no English a/an mistake


@pytest.mark.parametrize("stage", [2, 3])
def test_documents_of_later_stages_are_clean(stage: int) -> None:
    # pupils' mistakes are meant: articles and order may be wrong there
    for text in corpus(1, 1_000_000, stage):
        assert text == text.strip()
        assert text.isascii()
        assert 10 <= len(text) <= 1300, text
        assert not re.search(r"[{}\[\]]|<[=+]?\w+>|\bNone\b|  |\bcan not\b", text), text


def test_later_stages_remark_on_what_was_said_asked_and_written() -> None:
    sorts = {
        "remark": r"###(True|Right|False|Wrong|Unknown)\b",
        "question": r"\?\n?###|\?\n\w+: .*\?",
        "mistake": r"(Better: |mistake|Bad English|Not correct)",
        "query": r"(?i)\bselect .* from \w+",
        "triples": r"^\w+ : [A-Z_]+ : ",
        "topic": r"###Topic: ",
    }
    for stage, expected in ((2, {"remark", "mistake", "query", "triples", "topic"}), (3, set(sorts))):
        texts = corpus(1, 1_000_000, stage)
        for sort in expected:
            found = sum(bool(re.search(sorts[sort], text, re.MULTILINE)) for text in texts)
            assert found > 0.02 * len(texts), (stage, sort)


def test_every_word_of_the_world_occurs(texts: list[str]) -> None:
    everything = "\n".join(texts)
    for pool in ("female", "male", "places", "towns", "tools", "dishes", "films", "jobs"):
        for word in words.pool(pool):
            assert word.partition(" at ")[0] in everything, word


def test_triples_queries_digits_and_section_marks_have_a_modest_share(texts: list[str]) -> None:
    share = Counter(
        sort
        for text in texts
        for sort, pattern in (
            ("triples", r"^\w+ : [A-Z_]+ : .* \| "),
            ("query", r"(?i)^select .* from "),
            ("mark", r"###"),
            ("mark before a heading", r"(?m)^### [A-Z]"),
            ("mark inside a line", r"[.!?]###\S"),
            ("dialogue", r"(?m)^[A-Z][a-z]+: .*\n[A-Z][a-z]+: "),
        )
        if re.search(pattern, text, re.MULTILINE)
    )
    fractions = {sort: count / len(texts) for sort, count in share.items()}
    assert 0.02 < fractions["triples"] < 0.1
    assert 0.01 < fractions["query"] < 0.1
    assert 0.1 < fractions["mark"] < 0.25
    assert fractions["mark before a heading"] > 0.03
    assert fractions["mark inside a line"] > 0.03
    assert 0.5 < fractions["dialogue"] < 0.85


def test_retellings_and_summaries_share_no_phrasing() -> None:
    # the labelled pair is a chat and one of these summaries: the plain text must tell chats in other words
    for kind in KINDS.values():
        assert not set(kind.summary.of("all")) & set(kind.recount.of("all")), kind.name


@given(st.integers(0, 2**31), st.sampled_from(list(KINDS)))
@settings(max_examples=200, deadline=None)
def test_a_recount_copies_from_its_chat(seed: int, name: str) -> None:
    draw = Draw(seed)
    told = chat(draw, new_event(World(draw), name))
    text = recount(draw, told.event, "past", joining=told.joining)
    people = {p.name for p in told.event.people.values()}
    capitalised = set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text))
    assert set(re.findall(r"\w+", text)) & people
    # every name in the middle of a sentence was said in the chat or is one of its people
    assert all(word in told.text or word in people for word in capitalised), (told.text, text)


def test_a_diary_speaks_in_the_first_person() -> None:
    draw = Draw(4)
    world = World(draw)
    own = 0
    for _ in range(300):
        told = chat(draw, new_event(world))
        text = first_person(draw, told)
        own += bool(re.search(r"\b(I|my|me|we|us|our)\b", text))
        assert not re.search(r"\bI's\b|\b(?:for|to|with|from|tell|ask|told|asked) I\b|\bI (?:is|has)\b", text), text
    assert own > 270  # some are about the other one alone


def test_present_tense_is_learnt_without_a_chat(texts: list[str]) -> None:
    narrated = [t for t in texts if not re.search(r"(?m)^[A-Z][a-z]+: ", t)]
    assert sum(bool(re.search(r"\b(asks|plans|wants|agrees|promises)\b", t)) for t in narrated) > 0.04 * len(texts)
