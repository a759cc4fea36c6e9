"""ROUGE by Google's ``rouge_score``, the scorer behind the numbers that summarisation papers report.

Every value is an F1 in 0..1. The arithmetic mean is what we print; beside it is what ``evaluate``'s
"rouge" reports, the median of 1,000 bootstrap means, because published numbers are usually that one.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from ssm_tune.metrics.pairs import References, paired

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
BOOTSTRAP_SEED = 42
BOOTSTRAP_RESAMPLES = 1000


def rouge_statistics(prediction: str, reference: References) -> dict[str, float]:
    """F1 of one prediction under the keys ROUGE_TYPES; of several references the best for each type.

    rouge_score's own choices: lower-cased, everything but a-z and 0-9 separates words, no stemmer, rougeLsum
    splits at newlines.

    Raises:
        ValueError: there is no reference.
    """
    return rouge_scored([prediction], [reference], bootstrap=False)[1][0]


def rouge(predictions: Sequence[str], references: Sequence[References]) -> dict[str, float]:
    """The corpus values of ``rouge_scored`` alone."""
    return rouge_scored(predictions, references)[0]


def rouge_scored(
    predictions: Sequence[str], references: Sequence[References], bootstrap: bool = True
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Corpus ROUGE and, from the same pass, each prediction's own ``rouge_statistics``, in the predictions' order.

    Corpus values: arithmetic means (keys ROUGE_TYPES) and, unless ``bootstrap`` is off, bootstrap values (the
    same keys with "_bootstrap"). Those equal ``evaluate``'s for the same seed: one seed for all four types,
    drawn in the order of ROUGE_TYPES, so that rougeL and rougeLsum can differ there though every example agrees.

    Raises:
        ValueError: no predictions, another number of references, or a prediction without a reference.
    """
    # score_multi gives (precision, recall, fmeasure) per type, the best reference's by fmeasure
    scores = [_scorer().score_multi(texts, prediction) for prediction, texts in paired(predictions, references)]
    statistics = [{name: float(score[name].fmeasure) for name in ROUGE_TYPES} for score in scores]
    # fsum: the exact sum, so that the mean does not hang on the order of the examples
    values = {name: math.fsum(one[name] for one in statistics) / len(statistics) for name in ROUGE_TYPES}
    return values | (_bootstrap(scores) if bootstrap else {}), statistics


def rouge_signature(n: int) -> str:
    """What produced the numbers over ``n`` examples: library version and every setting that moves them."""
    return (
        f"rouge_score {version('rouge-score')} | F1 | no stemmer | rougeLsum splits at newline | "
        f"mean | n={n} | bootstrap: {BOOTSTRAP_RESAMPLES} resamples, seed {BOOTSTRAP_SEED}"
    )


def _bootstrap(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    from rouge_score.scoring import BootstrapAggregator

    aggregator = BootstrapAggregator(n_samples=BOOTSTRAP_RESAMPLES)
    for score in scores:
        aggregator.add_scores(score)
    with _numpy_seed(BOOTSTRAP_SEED):
        intervals = aggregator.aggregate()
    return {f"{name}_bootstrap": float(intervals[name].mid.fmeasure) for name in ROUGE_TYPES}


@cache
def _scorer() -> Any:
    # imported at first use: it brings nltk, which takes longer to load than the rest of a command
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(ROUGE_TYPES, use_stemmer=False)


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, the only one the aggregator can draw from, and puts it back after."""
    import numpy as np

    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
