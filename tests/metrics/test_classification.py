"""Classification scores against counts by hand, with the answers no label is among them."""

import math
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.metrics.classification import (
    classification,
    classification_signature,
    classification_statistics,
)

BINARY = ("0", "1")
ALL = ("accuracy", "f1", "matthews")
answers = st.sampled_from(["0", "1", "0", "1", " 1", "", "the", "01", "2"])
binary_pairs = st.lists(st.tuples(answers, st.sampled_from(BINARY)), min_size=1, max_size=12)


def by_counts(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """From the four cells of (answer is positive, label is positive); 0 where a value is undefined."""
    tp, fp, fn, tn = (sum(pair == cell for pair in pairs) for cell in product((True, False), repeat=2))
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return {
        "accuracy": (tp + tn) / len(pairs) if pairs else 0.0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
        "matthews": (tp * tn - fp * fn) / math.sqrt(spread) if spread else 0.0,
    }


@given(binary_pairs)
def test_two_labels(pairs: list[tuple[str, str]]) -> None:
    predictions, labels = [prediction for prediction, _ in pairs], [label for _, label in pairs]
    values = classification(predictions, labels, BINARY, ALL, positive="1")
    # an answer that is no label is on the side where the label is not
    fixed = by_counts(
        [(prediction == "1" if prediction in BINARY else label == "0", label == "1") for prediction, label in pairs]
    )
    dropped = by_counts([(prediction == "1", label == "1") for prediction, label in pairs if prediction in BINARY])
    for name in ALL:
        assert values[name] == pytest.approx(fixed[name], abs=1e-12)
        assert values[f"paper_{name}"] == pytest.approx(dropped[name], abs=1e-12)
    assert values["outside_labels"] == sum(prediction not in BINARY for prediction in predictions) / len(predictions)
    assert list(values) == [*ALL, *(f"paper_{name}" for name in ALL), "outside_labels"]
    assert {type(value) for value in values.values()} == {float}


@given(st.lists(st.tuples(answers, st.sampled_from("012")), min_size=1, max_size=12))
def test_three_labels(pairs: list[tuple[str, str]]) -> None:
    predictions, labels = [prediction for prediction, _ in pairs], [label for _, label in pairs]
    values = classification(predictions, labels, ("0", "1", "2"))
    statistics = [classification_statistics(*pair, choices=("0", "1", "2")) for pair in pairs]
    correct, outside = sum(one["correct"] for one in statistics), sum(one["outside"] for one in statistics)
    assert values["accuracy"] == pytest.approx(correct / len(pairs))
    assert values["outside_labels"] == pytest.approx(outside / len(pairs))
    kept = len(pairs) - outside
    assert values["paper_accuracy"] == pytest.approx(correct / kept if kept else 0.0)
    assert set(values) == {"accuracy", "paper_accuracy", "outside_labels"}


def test_both_forms_agree_where_every_answer_is_a_label() -> None:
    values = classification(list("0110100"), list("0101110"), BINARY, ALL, positive="1")
    assert all(values[name] == values[f"paper_{name}"] for name in ALL)
    assert values["accuracy"] == 4 / 7
    assert values["outside_labels"] == 0


def test_leaving_answers_out_flatters() -> None:
    values = classification(["1", "the", "the", "the"], ["1", "0", "1", "0"], BINARY, ("accuracy", "f1"), positive="1")
    assert values["accuracy"] == 0.25
    assert values["paper_accuracy"] == values["paper_f1"] == 1.0
    assert values["f1"] == pytest.approx(2 / (2 + 2 + 1))
    assert values["outside_labels"] == 0.75


def test_no_label_at_all() -> None:
    values = classification(["the", "a"], ["1", "0"], BINARY, ALL, positive="1")
    assert values == {
        **dict.fromkeys(["accuracy", "f1"], 0.0),
        "matthews": -1.0,
        "paper_accuracy": 0.0,
        "paper_f1": 0.0,
        "paper_matthews": 0.0,
        "outside_labels": 1.0,
    }


def test_the_positive_class_matters_to_f1() -> None:
    predictions, labels = list("1110"), list("1100")
    assert classification(predictions, labels, BINARY, ("f1",), positive="1")["f1"] == pytest.approx(4 / 5)
    assert classification(predictions, labels, BINARY, ("f1",), positive="0")["f1"] == pytest.approx(2 / 3)


def test_labels_are_whole_texts() -> None:
    assert classification([""], ["0"], "01")["outside_labels"] == 1
    assert classification_statistics("01", "0", "01") == {"correct": 0.0, "outside": 1.0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("predictions", ["11", "00", "10"])
@pytest.mark.parametrize("labels", ["11", "00", "10"])
def test_undefined_values_do_not_warn(predictions: str, labels: str) -> None:
    values = classification(list(predictions), list(labels), BINARY, ALL, positive="1")
    assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize(
    ("predictions", "labels", "choices", "metrics", "positive", "message"),
    [
        ([], [], BINARY, ALL, "1", "no predictions"),
        (["1"], [], BINARY, ALL, "1", "1 predictions for 0 labels"),
        (["1", "1"], ["1", "yes"], BINARY, ALL, "1", "label 1 .*'yes'"),
        (["1"], ["1"], BINARY, ("recall",), "1", "unknown metrics"),
        (["1"], ["1"], ("1",), ("accuracy",), None, "two labels at least"),
        (["1"], ["1"], ("0", "1", "2"), ("matthews",), None, "for two labels"),
        (["1"], ["1"], BINARY, ("f1",), None, "positive class"),
    ],
    ids=["none", "fewer", "label", "metric", "one-choice", "three-choices", "no-positive"],
)
def test_refused(
    predictions: list[str],
    labels: list[str],
    choices: Sequence[str],
    metrics: Sequence[str],
    positive: str | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        classification(predictions, labels, choices, metrics, positive)


def test_signature() -> None:
    assert classification_signature(408, BINARY, ("accuracy", "f1"), "1").endswith(
        " | labels 0, 1 | positive class 1 | any other answer is wrong (the other label) | "
        "paper_: any other answer is left out | n=408"
    )
    assert "| labels 0, 1, 2 | any other answer is wrong |" in classification_signature(9, ("0", "1", "2"))
