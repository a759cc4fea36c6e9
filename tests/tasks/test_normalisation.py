"""One character spelled in two ways: texts are compared after the same normalisation, answers as tokens."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ssm_tune.data.tokenization import answer_tokens, tokenize_training
from ssm_tune.models.tokenizer import EOS, Tokenizer
from ssm_tune.tasks.base import Example, load_task
from ssm_tune.utils.errors import UserError

WORDS = st.text(st.sampled_from("eaou\u0301\u0308\u00e9\u00fcK\u212a \u1112\u1161"), min_size=1).filter(str.strip)
TEXT2TEXT = load_task(
    {"_target_": "ssm_tune.tasks.text2text.Text2Text", "name": "text2text", "instruction": "", "metric": "exact_match"}
)
SAMSUM = load_task({"_target_": "ssm_tune.tasks.samsum.SAMSum", "name": "samsum", "hub": "none", "revision": None})


@pytest.mark.slow
@given(WORDS, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]))
def test_a_copy_of_the_target_is_right_whatever_the_tokenizer_normalises(text: str, one: Any, other: Any) -> None:
    target, prediction = unicodedata.normalize(one, text), unicodedata.normalize(other, text)
    example = Example("0", "", target, (target,))
    assert TEXT2TEXT.score([prediction], [example]).values["exact_match"] == 1.0
    assert TEXT2TEXT.score([prediction], [example]) == TEXT2TEXT.score([target], [example])
    assert SAMSUM.score([prediction], [example]) == SAMSUM.score([target], [example])


def test_the_signature_has_the_normalisation_where_it_matters() -> None:
    plain, decomposed = (Example("0", "", text, (text,)) for text in ("Caf\u00e9", "Cafe\u0301"))
    for task in (TEXT2TEXT, SAMSUM):
        assert not any("NFC" in line for line in task.signatures([plain]).values())
        assert all("NFC" in line for line in task.signatures([plain, decomposed]).values())


def lines(path: Path, labels: list[str]) -> dict[str, Any]:
    rows = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels * 8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"source": "local", "path": str(path), "check": "own", "name": None}


def classify(answers: Any) -> Any:
    section = {"_target_": "ssm_tune.tasks.classify.Classify", "name": "classify", "instruction": "", "labels": None}
    return load_task(section | {"answers": answers, "metric": ["accuracy"], "positive": None})


@pytest.mark.parametrize(
    "pair", [("K", "\u212a"), ("\u00e9", "e\u0301"), ("\u03a9", "\u2126"), ("\uac00", "\u1100\u1161")]
)
def test_labels_that_are_one_text_are_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", [*pair, "n"])
    with pytest.raises(UserError, match=r"task\.answers.*U\+"):
        classify("words").load(data, "standard")
    with pytest.raises(UserError, match=r"task\.answers"):
        classify([*pair, "x"]).load(data, "standard")
    dataset = classify("digits").load(data, "standard")  # the labels are data: two of them stay two
    assert {example.target for example in dataset.splits["train"]} == {"0", "1", "2"}


def tokenizer(path: Path, normalizer: Any = None, prefix_space: bool = False) -> Tokenizer:
    alphabet = {letter: number for number, letter in enumerate([EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges = [("\u0120", digit) for digit in "0123"]
    vocabulary = alphabet | {f"\u0120{digit}": len(alphabet) + number for number, digit in enumerate("0123")}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([EOS])
    made.save(str(path))
    return Tokenizer(path)


def test_an_answer_is_known_by_its_token_whatever_the_decoder_gives_back(tmp_path: Path) -> None:
    spaced = tokenizer(tmp_path / "t.json", prefix_space=True)
    dataset = classify("digits").load(lines(tmp_path / "d.jsonl", ["a", "b"]), "standard")
    known = answer_tokens(classify("digits"), dataset.splits["val"], spaced)
    assert set(known.values()) == {"0", "1"}
    assert {spaced.decode([token]) for token in known} == {" 0", " 1"}
    for example, tokenized in zip(
        dataset.splits["train"], tokenize_training(dataset.splits["train"], classify("digits"), spaced), strict=True
    ):
        assert known[tokenized.tokens[-1]] == example.target


def test_two_answers_of_one_token_are_refused(tmp_path: Path) -> None:
    lower = tokenizer(tmp_path / "t.json", normalizers.Lowercase())
    task = classify(["y", "Y"])
    dataset = task.load(lines(tmp_path / "d.jsonl", ["a", "b"]), "standard")
    with pytest.raises(UserError, match="same token"):
        list(tokenize_training(dataset.splits["train"], task, lower))
