"""ROUGE against rouge_score called directly, and against brute force where texts are short."""

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer, scoring

from ssm_tune.metrics.rouge import ROUGE_TYPES, rouge, rouge_scored, rouge_signature, rouge_statistics

words = st.lists(st.sampled_from(["ann", "bob", "tea", "Tea", "é", "7", "x-y", "\n"]), max_size=7).map(" ".join)


def direct(prediction: str, reference: str) -> dict[str, float]:
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES))
    return {name: score.fmeasure for name, score in scorer.score(reference, prediction).items()}


def tokens(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def longest_common(a: list[str], b: list[str]) -> int:
    """Tries every subsequence of ``a``, the longest first."""

    def inside(picked: tuple[str, ...]) -> bool:
        rest = iter(b)
        return all(any(word == other for other in rest) for word in picked)

    return next(n for n in range(len(a), -1, -1) if any(inside(picked) for picked in combinations(a, n)))


@given(words, words)
def test_statistics_are_rouge_scores(prediction: str, reference: str) -> None:
    assert rouge_statistics(prediction, reference) == direct(prediction, reference)


@given(words, words)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(prediction: str, reference: str) -> None:
    common, lengths = (
        longest_common(tokens(prediction), tokens(reference)),
        len(tokens(prediction)) + len(tokens(reference)),
    )
    expected = 2 * common / lengths if common else 0.0
    assert rouge_statistics(prediction, reference)["rougeL"] == pytest.approx(expected, abs=1e-12)


@given(words, words)
def test_one_line_texts_have_the_same_rouge_l_and_lsum(prediction: str, reference: str) -> None:
    scores = rouge_statistics(prediction.replace("\n", " "), reference.replace("\n", " "))
    assert scores["rougeLsum"] == pytest.approx(scores["rougeL"], abs=1e-12)


def test_worked_example() -> None:
    scores = rouge_statistics("the cat sat", "the cat sat on the mat")
    # 3 of 3 and 3 of 6 words; 2 of 2 and 2 of 5 pairs
    assert scores["rouge1"] == pytest.approx(2 / 3)
    assert scores["rouge2"] == pytest.approx(4 / 7)


def test_no_stemmer() -> None:
    assert rouge_statistics("she walks", "he walked")["rouge1"] == 0


def test_newlines_matter_to_lsum_only() -> None:
    scores = rouge_statistics("tea now\nann left", "ann left\ntea now")
    assert scores["rougeLsum"] == 1
    assert scores["rougeL"] == 0.5


@given(words, st.lists(words, min_size=1, max_size=3))
def test_several_references_give_the_best_per_type(prediction: str, references: list[str]) -> None:
    each = [direct(prediction, reference) for reference in references]
    assert rouge_statistics(prediction, references) == {name: max(one[name] for one in each) for name in ROUGE_TYPES}


def corpus(n: int = 60) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(3)
    lexicon = np.array(["ann", "bob", "tea", "rain", "shop", "late", "train", "cake"])
    texts = [" ".join(rng.choice(lexicon, size=rng.integers(0, 9))) for _ in range(2 * n)]
    return texts[:n], texts[n:]


def test_corpus_means() -> None:
    predictions, references = corpus()
    scores = rouge(predictions, references)
    each = [direct(*pair) for pair in zip(predictions, references, strict=True)]
    for name in ROUGE_TYPES:
        assert scores[name] == pytest.approx(np.mean([one[name] for one in each]), abs=1e-12)


def test_bootstrap_is_the_official_aggregator_at_seed_42() -> None:
    predictions, references = corpus()
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES))
    aggregator = scoring.BootstrapAggregator()
    for prediction, reference in zip(predictions, references, strict=True):
        aggregator.add_scores(scorer.score(reference, prediction))
    np.random.seed(42)
    expected = aggregator.aggregate()
    scores = rouge(predictions, references)
    assert {name: scores[f"{name}_bootstrap"] for name in ROUGE_TYPES} == {
        name: expected[name].mid.fmeasure for name in ROUGE_TYPES
    }
    assert scores["rougeL_bootstrap"] != scores["rougeL"]


def test_one_pass_gives_both() -> None:
    predictions, references = corpus()
    values, statistics = rouge_scored(predictions, references)
    assert values == rouge(predictions, references)
    assert statistics == [rouge_statistics(*pair) for pair in zip(predictions, references, strict=True)]
    without, same = rouge_scored(predictions, references, bootstrap=False)
    assert without == {name: values[name] for name in ROUGE_TYPES}
    assert same == statistics


def test_the_callers_random_numbers_are_untouched() -> None:
    predictions, references = corpus(10)
    np.random.seed(7)
    expected = np.random.random(4)
    np.random.seed(7)
    first = rouge(predictions, references)
    assert (np.random.random(4) == expected).all()
    np.random.seed(8)
    assert rouge(predictions, references) == first


def test_values_are_plain_floats() -> None:
    assert {type(value) for value in rouge(["tea"], [("tea", "cake")]).values()} == {float}


@pytest.mark.parametrize(
    ("predictions", "references"), [([], []), (["a"], []), (["a"], [()])], ids=["none", "fewer", "no-reference"]
)
def test_refused(predictions: list[str], references: list[tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="prediction"):
        rouge(predictions, references)


def test_signature() -> None:
    assert rouge_signature(819) == (
        "rouge_score 0.1.2 | F1 | no stemmer | rougeLsum splits at newline | mean | n=819 | "
        "bootstrap: 1000 resamples, seed 42"
    )
