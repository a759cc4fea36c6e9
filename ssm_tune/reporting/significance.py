"""How sure a table is: p values corrected for their number, and how far a rank depends on tasks and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssm_tune.reporting.bootstrap import RESAMPLES, SEED

CHUNK = 1_000
"""Resamples held in memory at a time."""
TIE = 1e-9
"""Scores that differ by no more share a rank."""


def holm(p: Sequence[float]) -> list[float]:
    """The p values corrected for their number: at any level, those of them at most as large are rejected together.

    Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    corrected, largest = [0.0] * len(p), 0.0
    for place, number in enumerate(sorted(range(len(p)), key=lambda number: p[number])):
        largest = max(largest, min(1.0, (len(p) - place) * p[number]))
        corrected[number] = largest
    return corrected


def rank_intervals(
    scores: Sequence[Sequence[Sequence[float]]], resamples: int = RESAMPLES, seed: int = SEED
) -> list[tuple[float, float]]:
    """Of each row the 95% percentile interval of its average rank (1 is best) over drawn columns and seeds.

    scores: by row and column, of each seed, fractions. A resample draws as many columns as there are, with replacement,
    and in each of them as many seeds as a row has, the same for all rows that have as many.
    """
    columns = len(scores[0])
    generator = np.random.Generator(np.random.PCG64(seed))
    most = max(len(column) for row in scores for column in row)
    found = []
    for start in range(0, resamples, CHUNK):
        many = min(CHUNK, resamples - start)
        drawn = generator.integers(0, columns, size=(many, columns))
        places = generator.random((many, columns, most))
        means = np.empty((many, columns, len(scores)))
        for row, of_row in enumerate(scores):
            for column, values in enumerate(of_row):
                here = drawn == column
                chosen = (places[here][:, : len(values)] * len(values)).astype(np.int64)
                means[here, row] = np.asarray(values)[chosen].mean(axis=1)
        found.append(_ranks(means).mean(axis=1))
    low, high = np.quantile(np.concatenate(found), (0.025, 0.975), axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _ranks(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks along the last axis, 1 for the highest; equal scores share the mean of their ranks."""
    above = (means[..., None, :] - means[..., :, None]) > TIE
    equal = np.abs(means[..., None, :] - means[..., :, None]) <= TIE
    return np.asarray(1 + above.sum(axis=-1) + (equal.sum(axis=-1) - 1) / 2, dtype=np.float64)
