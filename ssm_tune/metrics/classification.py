"""Accuracy, F1 and Matthews correlation of answers that are texts, by scikit-learn.

A model that writes its label can write anything. The plain names keep every example, so that runs share one
denominator; the ``paper_`` names repeat the official code, which leaves out every example whose answer is no label.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version

METRICS = ("accuracy", "f1", "matthews")


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
    """What produced the numbers over ``n`` examples: library version and every rule that moves them."""
    positive_class = f" | positive class {positive}" if "f1" in metrics else ""
    wrong = "wrong (the other label)" if len(choices) == 2 else "wrong"
    return (
        f"scikit-learn {version('scikit-learn')} | labels {', '.join(choices)}{positive_class} | "
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
    """``metric`` over (answer, label) pairs, at least one."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    answers, labels = [answer for answer, _ in pairs], [label for _, label in pairs]
    if metric == "matthews" and len({*answers, *labels}) == 1:
        return 0.0  # scikit-learn's value too, but it warns
    scorers: dict[str, Callable[[], float]] = {
        "accuracy": lambda: accuracy_score(labels, answers),
        "f1": lambda: f1_score(labels, answers, pos_label=positive, zero_division=0.0),
        "matthews": lambda: matthews_corrcoef(labels, answers),
    }
    return float(scorers[metric]())
