"""A paired bootstrap over stored predictions: what a metric would be, had other examples been drawn.

Each metric here is a function of sums over examples of stored numbers (a mean, a ratio, a table of right and wrong
answers, BLEU's counts). A resample counts how often each example is drawn, so a corpus metric is computed again from
weighted sums, never averaged. Both sides of a comparison see the same draws.
Efron and Tibshirani (1993); Koehn (2004), aclanthology.org/W04-3250.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_tune.metrics.names import AMONG_LABELS
from ssm_tune.records.record import references_sha256

SEED = 20250
RESAMPLES = 10_000
TOLERANCE = 1e-9
CHUNK = 4_000_000
"""Draws held in memory at a time."""
Floats = NDArray[np.float64]
POSITIVE = references_sha256(("1",))
"""What the stored hash of the references is where the label is GLUE's positive one, whose F1 is taken."""


@dataclass(frozen=True)
class Sums:
    """A metric as a function of sums. features: (examples, k); value: (..., k) sums -> (...) metric, fractions."""

    features: Floats
    value: Callable[[Floats], Floats]

    @property
    def whole(self) -> float:
        """The metric over every example once."""
        return float(self.value(np.array([math.fsum(column) for column in self.features.T])))


@dataclass(frozen=True)
class Interval:
    """A difference of means over seeds (first - second), its 95% percentile interval and two-sided p. Fractions."""

    difference: float
    low: float
    high: float
    p: float


def sums(rows: Sequence[dict[str, Any]], metric: str) -> Sums:
    """``metric`` over stored predictions (rows of predictions.jsonl.gz).

    Raises:
        ValueError: it cannot be computed from what is stored of each example.
    """
    if metric.endswith(AMONG_LABELS) and all(isinstance(row.get("likeliest_label"), str) for row in rows):
        rows, metric = [_likeliest(row) for row in rows], metric.removesuffix(AMONG_LABELS)
    own = [row["statistics"] for row in rows]
    plain = metric.removeprefix("paper_")
    if all(metric in one for one in own):
        return _ratio([(one[metric], 1.0) for one in own])
    if metric == "outside_labels" and _has(own, "outside"):
        return _ratio([(one["outside"], 1.0) for one in own])
    if plain in ("accuracy", "f1", "matthews") and _has(own, "correct", "outside"):
        # the paper's values leave out the answers that are no label; the others count them as wrong
        kept = [1.0 if plain == metric else 1.0 - one["outside"] for one in own]
        if plain == "accuracy":
            return _ratio([(weight * one["correct"], weight) for one, weight in zip(own, kept, strict=True)])
        return Sums(_confusion(rows, kept), _f1 if plain == "f1" else _matthews)
    if metric == "bleu" and _has(own, "bleu_length"):
        keys = [f"bleu_{kind}_{order}" for kind in ("matches", "possible") for order in (1, 2, 3, 4)]
        keys += ["bleu_length", "bleu_reference_length"]
        return Sums(np.array([[one[key] for key in keys] for one in own]), _bleu)
    raise ValueError(f"{metric} cannot be computed from what is stored of each example")


def paired_bootstrap(
    first: Sequence[Sums], second: Sequence[Sums], resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """The difference between two sides, each the mean over its seeds' runs, over resampled examples.

    Every run has the same n examples in the same order. A draw takes n of them with replacement, for all runs alike.
    p: twice the smaller share of draws on one side of zero, the observed one counted among them, at most 1.
    """
    count = len(first[0].features)
    generator = np.random.Generator(np.random.PCG64(seed))
    differences = np.empty(resamples)
    step = max(1, CHUNK // count)
    for start in range(0, resamples, step):
        many = min(step, resamples - start)
        drawn = generator.integers(0, count, size=(many, count)) + count * np.arange(many)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=many * count).reshape(many, count).astype(np.float64)
        sides = [np.mean([run.value(weights @ run.features) for run in side], axis=0) for side in (first, second)]
        differences[start : start + many] = sides[0] - sides[1]
    low, high = (float(edge) for edge in np.quantile(differences, (0.025, 0.975)))
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    observed = math.fsum(run.whole for run in first) / len(first) - math.fsum(run.whole for run in second) / len(second)
    return Interval(observed, low, high, min(1.0, 2 * (tail + 1) / (resamples + 1)))


def _likeliest(row: dict[str, Any]) -> dict[str, Any]:
    """The row as if the likeliest label were the model's answer."""
    right = references_sha256([row["likeliest_label"]]) == row["references_sha256"]
    return row | {"statistics": {"correct": float(right), "outside": 0.0}}


def _has(own: Sequence[dict[str, float]], *names: str) -> bool:
    return all(name in one for one in own for name in names)


def _ratio(pairs: Sequence[tuple[float, float]]) -> Sums:
    def value(totals: Floats) -> Floats:
        return _divided(totals[..., 0], totals[..., 1])

    return Sums(np.array(pairs, dtype=np.float64), value)


def _confusion(rows: Sequence[dict[str, Any]], kept: Sequence[float]) -> Floats:
    """(true positive, false negative, false positive, true negative) of each example; a wrong one is the other label.

    Raises ValueError where the references are not two labels.
    """
    hashes = sorted({row["references_sha256"] for row in rows})
    if len(hashes) > 2 or (len(hashes) == 2 and POSITIVE not in hashes):
        raise ValueError("F1 and Matthews correlation are taken of two labels, one of them GLUE's positive one")
    table = np.zeros((len(rows), 4))
    for place, (row, weight) in enumerate(zip(rows, kept, strict=True)):
        right = row["statistics"]["correct"] == 1.0
        column = (0 if right else 1) if row["references_sha256"] == POSITIVE else (3 if right else 2)
        table[place, column] = weight
    return table


def _f1(totals: Floats) -> Floats:
    hit, missed, false = totals[..., 0], totals[..., 1], totals[..., 2]
    return _divided(2 * hit, 2 * hit + missed + false)


def _matthews(totals: Floats) -> Floats:
    tp, fn, fp, tn = (totals[..., place] for place in range(4))
    return _divided(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def _bleu(totals: Floats) -> Floats:
    matches, possible = totals[..., 0:4], totals[..., 4:8]
    length, reference = totals[..., 8], totals[..., 9]
    good = np.asarray((matches > 0).all(axis=-1))
    safe = np.where(good[..., None], matches, 1.0) / np.where(good[..., None], possible, 1.0)
    brevity = np.minimum(0.0, 1 - _divided(reference, length))
    return np.where(good, np.exp(np.log(safe).mean(axis=-1) + brevity), 0.0)


def _divided(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, 0 where that is nothing divided by nothing, as the metrics have it."""
    return np.where(bottom != 0, top / np.where(bottom != 0, bottom, 1.0), 0.0)
