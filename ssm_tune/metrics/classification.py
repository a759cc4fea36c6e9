"""Accuracy, F1 and Matthews correlation of answers that are texts, equal to scikit-learn's to the last bit.

They are counted here because importing scikit-learn takes longer than many an evaluation.

A model that writes its label can write anything. The plain names keep every example, so that runs share one
denominator; the ``paper_`` names repeat the official code, which leaves out every example whose answer is no label.
"""

import math
from collections import Counter
from collections.abc import Sequence

METRICS = ("accuracy", "f1", "matthews")
EQUAL_TO = "scikit-learn 1.9.1"
"""The release whose values these are (tests/metrics/test_classification.py compares them bit for bit)."""


def classification(
    predictions: Sequence[str],
    labels: Sequence[str],
    choices: Sequence[str],
    metrics: Sequence[str] = ("accuracy",),
    positive: str | None = None,
) -> dict[str, float]:
    """The asked ``metrics`` (of METRICS) in their order, the same as ``paper_<metric>``, and ``outside_labels``.

    A prediction is an answer only if it equals one of ``choices`` to the character; ``outside_labels`` is the
    fraction that are not. <metric> counts those as wrong, which of two labels means as the other one: a false
    positive or a false negative. paper_<metric> drops them together with their labels, 0.0 if none is left.
    ``positive`` is the class whose F1 is taken. Undefined values, such as F1 without a positive anywhere or
    Matthews correlation over one class, are 0.0, as in scikit-learn.

    Raises:
        ValueError: no predictions, another number of labels, a label that is no choice (its index is named), an unknown
            metric, f1 or matthews of more than two choices, f1 without one of the choices as ``positive``.
    """
    choices = tuple(choices)
    _check(predictions, labels, choices, metrics, positive)
    pairs = list(zip(predictions, labels, strict=True))
    inside = [(prediction, label) for prediction, label in pairs if prediction in choices]
    filled = [(prediction if prediction in choices else _another(label, choices), label) for prediction, label in pairs]
    values = {name: _value(name, filled, positive) for name in metrics}
    paper = {f"paper_{name}": _value(name, inside, positive) if inside else 0.0 for name in metrics}
    return values | paper | {"outside_labels": (len(pairs) - len(inside)) / len(pairs)}


def classification_statistics(prediction: str, label: str, choices: Sequence[str]) -> dict[str, float]:
    """One example's own: "correct" and "outside" (the prediction is none of the choices), each 0.0 or 1.0."""
    return {"correct": float(prediction == label), "outside": float(prediction not in tuple(choices))}


def classification_signature(
    n: int, choices: Sequence[str], metrics: Sequence[str] = ("accuracy",), positive: str | None = None
) -> str:
    """What the numbers over ``n`` examples are: whose definition they follow, and every rule that moves them."""
    positive_class = f" | positive class {positive}" if "f1" in metrics else ""
    wrong = "wrong (the other label)" if len(choices) == 2 else "wrong"
    return (
        f"{EQUAL_TO} | labels {', '.join(choices)}{positive_class} | "
        f"any other answer is {wrong} | paper_: any other answer is left out | n={n}"
    )


def _check(
    predictions: Sequence[str],
    labels: Sequence[str],
    choices: tuple[str, ...],
    metrics: Sequence[str],
    positive: str | None,
) -> None:
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    if not predictions:
        raise ValueError("no predictions to score")
    for index, label in enumerate(labels):
        if label not in choices:
            raise ValueError(f"label {index} (counted from 0) is {label!r}, none of {choices}")
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}: known are {METRICS}")
    if len(set(choices)) < 2:
        raise ValueError(f"a choice needs two labels at least, not {choices}")
    if set(metrics) - {"accuracy"} and len(choices) != 2:
        raise ValueError(f"f1 and matthews are for two labels, not {choices}")
    if "f1" in metrics and positive not in choices:
        raise ValueError(f"f1 needs a positive class out of {choices}, not {positive!r}")


def _another(label: str, choices: tuple[str, ...]) -> str:
    """A wrong answer: of two labels the other one; which of several is the same to accuracy."""
    return next(choice for choice in choices if choice != label)


def _value(metric: str, pairs: Sequence[tuple[str, str]], positive: str | None) -> float:
    """``metric`` over (answer, label) pairs, at least one; as scikit-learn computes it, in the same operations."""
    counts = Counter(pairs)
    right = sum(count for (answer, label), count in counts.items() if answer == label)
    if metric == "accuracy":
        return right / len(pairs)
    answers, labels = Counter(answer for answer, _ in pairs), Counter(label for _, label in pairs)
    if metric == "f1":
        assert positive is not None
        both = answers[positive] + labels[positive]
        return 2 * counts[positive, positive] / both if both else 0.0
    # Matthews correlation as the ratio of covariances, of which each is an exact whole number
    n, kinds = len(pairs), answers.keys() | labels.keys()
    shared = right * n - sum(answers[kind] * labels[kind] for kind in kinds)
    spread = float(n * n - sum(count**2 for count in answers.values()))
    spread *= n * n - sum(count**2 for count in labels.values())
    return shared / math.sqrt(spread) if spread else 0.0
