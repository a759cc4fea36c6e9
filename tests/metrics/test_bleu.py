"""BLEU against sacrebleu and nltk where their rules agree with the official ones, else against the formula.

The 13a tokens are sacrebleu's in all of them: bleu.py calls its tokeniser.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu
from sacrebleu.metrics.bleu import BLEU

from ssm_tune.metrics.bleu import bleu, bleu_scored, bleu_signature, sacrebleu, sacrebleu_signature

words = st.sampled_from(["the", "The", "cat", "sat", "on", "mat"])
texts = st.lists(words, max_size=9).map(" ".join)
# such that the four precisions are seldom 0
alike = st.lists(st.sampled_from(["a", "b"]), min_size=6, max_size=12).map(" ".join)


def corpora(text: st.SearchStrategy[str], most: int) -> st.SearchStrategy[list[tuple[str, list[str]]]]:
    return st.lists(st.tuples(text, st.lists(text, min_size=1, max_size=most)), min_size=1, max_size=5)


def split(corpus: list[tuple[str, list[str]]]) -> tuple[list[str], list[list[str]]]:
    return [prediction for prediction, _ in corpus], [references for _, references in corpus]


def streams(references: list[list[str]]) -> list[list[str | None]]:
    most = max(map(len, references))
    return [[given[i] if i < len(given) else None for given in references] for i in range(most)]


def by_hand(predictions: list[list[str]], references: list[list[list[str]]]) -> float:
    """The formula word for word: every n-gram of a prediction uses up one of the reference that has most of it."""

    def grams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    product = 1.0
    for n in (1, 2, 3, 4):
        matched = possible = 0
        for prediction, several in zip(predictions, references, strict=True):
            mine, theirs = grams(prediction, n), [grams(reference, n) for reference in several]
            possible += len(mine)
            matched += sum(min(mine.count(gram), max(other.count(gram) for other in theirs)) for gram in set(mine))
        if matched == 0:
            return 0.0
        product *= matched / possible
    c = sum(map(len, predictions))
    r = sum(min(map(len, given)) for given in references)
    return product**0.25 * (1.0 if c >= r else math.exp(1 - r / c))


@given(corpora(alike, 3) | corpora(texts, 3))
def test_the_formula(corpus: list[tuple[str, list[str]]]) -> None:
    predictions, references = split(corpus)
    expected = by_hand(
        [text.split() for text in predictions], [[text.split() for text in given] for given in references]
    )
    assert bleu(predictions, references) == pytest.approx(expected, abs=1e-12)


@given(corpora(alike, 1) | corpora(texts, 1))
def test_sacrebleu_agrees_on_single_references(corpus: list[tuple[str, list[str]]]) -> None:
    predictions, references = split(corpus)
    expected = BLEU(smooth_method="none").corpus_score(predictions, streams(references)).score / 100
    assert bleu(predictions, references) == pytest.approx(expected, abs=1e-12)


@given(corpora(alike, 3))
def test_sacrebleu_agrees_where_outputs_are_the_longest(corpus: list[tuple[str, list[str]]]) -> None:
    predictions, references = split(corpus)
    predictions = [prediction + " b" * 12 for prediction in predictions]
    expected = BLEU(smooth_method="none").corpus_score(predictions, streams(references)).score / 100
    assert bleu(predictions, references) == pytest.approx(expected, abs=1e-12)


@given(corpora(alike, 1))
def test_nltk_agrees_on_single_references(corpus: list[tuple[str, list[str]]]) -> None:
    predictions, references = split(corpus)
    ours = bleu(predictions, references)
    if ours:  # nltk puts a tiny number for a precision of 0
        tokens = [[text.split() for text in given] for given in references]
        assert ours == pytest.approx(corpus_bleu(tokens, [text.split() for text in predictions]), abs=1e-12)


def test_the_shortest_reference_counts_not_the_closest() -> None:
    prediction, longer, shorter = "a b c d e f", "a b c d e f g", "a b c d"
    assert bleu([prediction], [[longer]]) == pytest.approx(math.exp(1 - 7 / 6))
    # 7 words are closer to 6 than 4 are, but 6 are not too few for 4
    assert bleu([prediction], [[longer, shorter]]) == 1.0
    assert sacrebleu([prediction], [[longer, shorter]]) == pytest.approx(math.exp(1 - 7 / 6))


@pytest.mark.parametrize("predictions", [["", ""], ["", "a b c"], ["x y z w", "x"]], ids=["empty", "short", "other"])
def test_a_precision_of_zero_is_a_score_of_zero(predictions: list[str]) -> None:
    assert bleu(predictions, ["a b c d", "a b c d"]) == 0.0


def test_an_empty_reference() -> None:
    assert bleu(["a b c d"], [["", "a b c d"]]) == 1.0
    assert bleu(["a b c d"], [""]) == 0.0


def test_case_and_punctuation_count() -> None:
    assert bleu(["the cat, sat on it."], ["the cat , sat on it ."]) == 1.0
    assert bleu(["The cat sat on it"], ["the cat sat on it"]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


@given(corpora(alike, 3))
def test_the_counts_of_any_part_give_its_score(corpus: list[tuple[str, list[str]]]) -> None:
    predictions, references = split(corpus)
    value, statistics = bleu_scored(predictions, references)
    assert value == bleu(predictions, references)
    for prediction, several, one in zip(predictions, references, statistics, strict=True):
        assert [one] == bleu_scored([prediction], [several])[1]
        assert one["possible_1"] == one["length"] == len(prediction.split())


@given(corpora(texts, 3))
def test_sacrebleu_is_the_library_with_its_defaults(corpus: list[tuple[str, list[str]]]) -> None:
    predictions, references = split(corpus)
    metric = BLEU()
    expected = metric.corpus_score(predictions, streams(references)).score / 100
    assert sacrebleu(predictions, references) == pytest.approx(expected, abs=1e-12)
    assert sacrebleu_signature(references).split(" | ")[0] == str(metric.get_signature())


def test_signatures() -> None:
    assert bleu_signature(2768).endswith("no smoothing, 0 if a precision is 0 | shortest reference length | n=2768")
    assert "nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp" in sacrebleu_signature([["a"], ["a", "b"]])
    assert sacrebleu_signature(["a", "b"]).startswith("nrefs:1|")


def dart(shared: Path) -> list[list[str]]:
    """All references of every entry of DART's development set that has several (the folder holds it in three parts)."""
    files = sorted((shared / "data" / "dart_small").glob("*.json"))
    entries: list[Any] = [entry for file in files for entry in json.loads(file.read_text(encoding="utf-8"))]
    texts = [[annotation["text"] for annotation in entry["annotations"]] for entry in entries]
    return [given for given in texts if len(given) > 1]


def test_real_references_against_each_other(shared: Path) -> None:
    """Figures of the official formula and sacrebleu on the same texts, measured apart from this code."""
    entries = dart(shared)
    assert len(entries) == 1668
    firsts, others = [given[0] for given in entries], [given[1:] for given in entries]
    assert round(100 * bleu(firsts, others), 3) == round(100 * sacrebleu(firsts, others), 3) == 48.978
    cut = [" ".join(text.split()[: int(0.7 * len(text.split()))]) for text in firsts]
    assert round(100 * bleu(cut, others), 2) == 32.19
    assert round(100 * sacrebleu(cut, others), 2) == 32.04
