"""Exact match: the share of predictions that equal a reference to the character, blanks at both ends aside."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssm_tune.metrics.pairs import References, paired


def exact_match(predictions: Sequence[str], references: Sequence[References]) -> tuple[float, list[float]]:
    """The share over the predictions, and each prediction's own 0.0 or 1.0; of several references any will do.

    Raises:
        ValueError: no predictions, another number of references, or a prediction without a reference.
    """
    each = [
        float(prediction.strip() in {text.strip() for text in texts})
        for prediction, texts in paired(predictions, references)
    ]
    return math.fsum(each) / len(each), each


def exact_match_signature(n: int) -> str:
    """What produced the number over ``n`` examples."""
    return f"equal to a reference, case and inner blanks included, blanks at the ends aside | mean | n={n}"
