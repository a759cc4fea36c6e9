"""The labelled rows of the sample world: the same everywhere, nothing shared between splits, well formed."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_world import smalltalk, words
from sample_world.dialogues import KINDS, MAX_TURNS, Chat, chat, new_event, samsum_rows, summary
from sample_world.draw import Draw
from sample_world.kind import Phrases
from sample_world.prose import corpus
from sample_world.values import Clause, When
from sample_world.world import World

from ssm_tune.utils.errors import UserError

pytestmark = pytest.mark.slow

SPLITS = {"train": 640, "val": 64, "test": 128}
PARTS: dict[str, words.Part] = {"train": "seen", "val": "held", "test": "held"}
# of the json of each split's default rows; a change of these is a change of the data
SHA256 = {
    "train": "e432431d9556a44160961ffbc609607025890a2471af6813c90e7ec80417661e",
    "val": "cbe3bb063d438df0a44fa35e74da289d9bae3a4e47a7eaa4821d2cbd9f6190e5",
    "test": "33a6dfa76bae332b73c9a94335499b1a4515ce57ff0ba6c149f5f1927ed48fa0",
}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, str]]]:
    return {split: samsum_rows(split) for split in SPLITS}


def test_default_rows_never_change(rows: dict[str, list[dict[str, str]]]) -> None:
    for split, size in SPLITS.items():
        assert len(rows[split]) == size
        assert hashlib.sha256(json.dumps(rows[split]).encode()).hexdigest() == SHA256[split]


def test_fewer_rows_are_the_first_ones(rows: dict[str, list[dict[str, str]]]) -> None:
    assert samsum_rows("train", 40) == rows["train"][:40]
    assert samsum_rows("test", 130)[:128] == rows["test"]


def test_unknown_split() -> None:
    with pytest.raises(UserError, match=r"'dev'.*train, val, test"):
        samsum_rows("dev")


def test_splits_share_no_row(rows: dict[str, list[dict[str, str]]]) -> None:
    total = sum(SPLITS.values())
    for column in ("id", "dialogue", "summary"):
        assert len({row[column] for split in rows.values() for row in split}) == total


def test_rows_have_samsums_form(rows: dict[str, list[dict[str, str]]]) -> None:
    for row in (row for split in rows.values() for row in split):
        assert set(row) == {"id", "dialogue", "summary"}
        turns = row["dialogue"].split("\n")
        assert 2 <= len(turns) <= MAX_TURNS
        speakers = [turn.split(": ")[0] for turn in turns]
        assert all(re.fullmatch(r"[A-Z][a-z]+: [A-Z0-9].*[.!?]", turn) for turn in turns), row
        assert all(one != other for one, other in pairwise(speakers))
        assert re.fullmatch(r"[A-Z][^\n]*\.", row["summary"])
        assert not re.search(r"[<>{}\[\]|*=#]|  |\bcan not\b", row["dialogue"] + row["summary"])
        assert set(speakers[:2]) & set(re.findall(r"\w+", row["summary"]))


def test_validation_and_test_use_only_held_out_names_and_things(rows: dict[str, list[dict[str, str]]]) -> None:
    train = _text(rows["train"])
    for pool in _NOUNS:
        shown = [word for word in words.pool(pool, "held") if re.search(rf"\b{_name(pool, word)}\b", train)]
        assert not shown
    others = _text(rows["val"]) + _text(rows["test"])
    for pool in ("female", "male", "towns", "streets", "films", "shows", "illnesses", "rooms"):
        shown = [word for word in words.pool(pool, "seen") if re.search(rf"\b{_name(pool, word)}\b", others)]
        assert not shown


# weekdays and months are everybody's; clauses are told in different words
_NOUNS = [p for p in words.names_of_pools() if p not in ("weekdays", "months", "hobbies") and not p.endswith("_why")]


def _name(pool: str, word: str) -> str:
    """What of a pool's word stands in a text: of a place its name, of a job its title."""
    word = word.split(" at ")[0] if pool == "jobs" else word
    return re.escape(word.split(" ", 1)[1] if pool in ("places", "rooms", "spots") else word)


def test_validation_and_test_use_only_held_out_phrasings(rows: dict[str, list[dict[str, str]]]) -> None:
    for split, part in PARTS.items():
        mine, others = _patterns(part), _patterns("held" if part == "seen" else "seen")
        for row in rows[split]:
            told = _told(row)
            assert any(pattern.fullmatch(told) for pattern in mine["summary"]), told
            assert not any(pattern.fullmatch(told) for pattern in others["summary"]), told
            body = row["dialogue"].split("\n")
            openings = [turn.split(": ", 1)[1] for turn in body[:3]]
            assert any(p.fullmatch(_ungreeted(turn)) for p in mine["opening"] for turn in openings), row
            assert not any(p.fullmatch(_ungreeted(turn)) for p in others["opening"] for turn in openings), row


def test_no_phrasing_is_both_seen_and_held() -> None:
    for kind in KINDS.values():
        for phrases in (kind.opening, kind.reply, kind.closing, kind.summary):
            assert phrases.of("seen")
            assert phrases.of("held")
            assert not set(phrases.of("seen")) & set(phrases.of("held"))


def test_no_summary_occurs_in_plain_text(rows: dict[str, list[dict[str, str]]]) -> None:
    text = "\n".join(corpus(0, 2_000_000))
    assert not [row for split in rows.values() for row in split if row["summary"] in text]


@given(st.integers(0, 2**31), st.sampled_from(["all", "seen", "held"]), st.sampled_from(list(KINDS)))
@settings(max_examples=300, deadline=None)
def test_chats_tell_what_summaries_say(seed: int, part: words.Part, name: str) -> None:
    draw = Draw(seed)
    told = chat(draw, new_event(World(draw, part), name), part)
    text = summary(draw, told, part)
    assert 2 <= len(told.turns) <= MAX_TURNS
    people = {p.name for p in told.event.people.values()}
    assert {speaker for speaker, _ in told.turns} <= people
    assert told.turns[0][0] == told.event.people["a"].name or told.turns[1][0] == told.event.people["b"].name
    for mentioned in set(re.findall(r"\w+", text)) & people:
        assert mentioned in told.text
    for value in told.event.facts.values():
        for piece in _pieces(value):
            assert piece.lower() not in text.lower() or piece.lower() in told.text.lower(), (piece, told.text, text)


def test_a_third_speaker_who_joins_is_in_the_summary() -> None:
    joined = 0
    draw = Draw(3)
    for _ in range(400):
        told: Chat = chat(draw, new_event(World(draw), "meet"))
        if told.joining:
            joined += 1
            assert told.event.people["c"].name in summary(draw, told, "all")
    assert 20 < joined < 200


def _pieces(value: Any) -> list[str]:
    """The parts of a fact that every telling shows letter for letter."""
    if isinstance(value, Clause):
        text = re.sub(r"<[=+]?\w+>", "\0", re.sub(r"\[\w+\]", "\0", value.text))
        return [piece.strip() for piece in text.split("\0") if piece.strip()]
    return [value.bare if isinstance(value, When) else str(value)]


def _text(rows: list[dict[str, str]]) -> str:
    return "\n".join(row["dialogue"] + "\n" + row["summary"] for row in rows)


def _pattern(phrase: str) -> re.Pattern[str]:
    def piece(part: str) -> str:
        if part in ("{a}", "{b}", "{c}"):
            return "[A-Z][a-z]+"
        return ".+" if part.startswith("{") else re.escape(part)

    return re.compile("".join(map(piece, re.split(r"(\{[^}]*\})", phrase))))


def _patterns(part: words.Part) -> dict[str, list[re.Pattern[str]]]:
    def of(phrases: Phrases, turn: int | None) -> list[re.Pattern[str]]:
        return [_pattern(p if turn is None else p.split(" | ")[turn]) for p in phrases.of(part)]

    return {
        "opening": [p for kind in KINDS.values() for p in of(kind.opening, 0)],
        "summary": [p for kind in KINDS.values() for p in of(kind.summary, None)],
    }


def _told(row: dict[str, str]) -> str:
    """The summary without the sentence about a third speaker."""
    joinings = (re.escape(line.split(" => ")[1]).replace(r"\{c\}", r"\w+") for line in smalltalk.JOINING.of("all"))
    return re.sub(rf" (?:{'|'.join(joinings)})$", "", row["summary"])


def _ungreeted(turn: str) -> str:
    greetings = "|".join(re.escape(g) for g in smalltalk.GREETINGS.of("all"))
    return re.sub(rf"^(?:{greetings}) ", "", turn)
