"""Corpus BLEU in two forms, both fractions of 1: as ``evaluate``'s "bleu" counts it, and sacrebleu's.

They read the same tokens, sacrebleu's "13a", and differ where predictions are short: the first takes the shortest
reference's length and smooths nothing, the second the closest reference's length and smooths exponentially.
Papineni et al. (2002), aclanthology.org/P02-1040; Post (2018), arXiv 1804.08771.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from itertools import zip_longest
from typing import Any

from ssm_tune.metrics.pairs import References, paired

ORDERS = (1, 2, 3, 4)


def bleu(predictions: Sequence[str], references: Sequence[References]) -> float:
    """Corpus BLEU-4 by the rules of the NMT script that ``evaluate`` runs.

    Clipped n-gram counts against the highest count over the references, summed over the corpus; the geometric mean
    of the four precisions, 0.0 if any is 0; times exp(1 - r/c) if the predictions' length c is below r, the sum of each
    example's shortest reference length. Outputs that are all empty score 0.0, where that script divides by zero.

    Raises:
        ValueError: no predictions, another number of references, or a prediction without a reference.
    """
    return bleu_scored(predictions, references)[0]


def bleu_scored(predictions: Sequence[str], references: Sequence[References]) -> tuple[float, list[dict[str, float]]]:
    """``bleu`` and what each prediction brings to it: counts whose sums over any examples give their BLEU.

    Keys: "matches_1".."matches_4" and "possible_1".."possible_4" (n-grams), "length" and "reference_length" (tokens).
    """
    statistics = [_counts(prediction, texts) for prediction, texts in paired(predictions, references)]
    return _corpus_value(statistics), statistics


def sacrebleu(predictions: Sequence[str], references: Sequence[References]) -> float:
    """sacrebleu's corpus BLEU with its defaults, divided by 100.

    Raises:
        ValueError: as ``bleu``.
    """
    pairs = paired(predictions, references)
    return float(_sacrebleu().corpus_score([prediction for prediction, _ in pairs], _streams(pairs)).score) / 100


def bleu_signature(n: int) -> str:
    """What produced ``bleu`` over ``n`` examples."""
    return (
        f"BLEU-4 | tokens 13a of sacrebleu {version('sacrebleu')} | mixed case | no smoothing, 0 if a precision is 0 | "
        f"shortest reference length | n={n}"
    )


def sacrebleu_signature(references: Sequence[References]) -> str:
    """What produced ``sacrebleu`` over these references: its own signature, then ours."""
    counts = {1 if isinstance(given, str) else len(given) for given in references}
    metric = _sacrebleu()
    # known only after scoring otherwise; -1 is sacrebleu's word for a number that varies
    metric.num_refs = counts.pop() if len(counts) == 1 else -1
    return f"{metric.get_signature()} | divided by 100 | n={len(references)}"


def _counts(prediction: str, references: Sequence[str]) -> dict[str, float]:
    words = _tokens(prediction)
    lists = [_tokens(reference) for reference in references]
    matches, possible = {}, {}
    for order in ORDERS:
        highest: Counter[tuple[str, ...]] = Counter()
        for reference in lists:
            highest |= _ngrams(reference, order)
        matches[f"matches_{order}"] = float((_ngrams(words, order) & highest).total())
        possible[f"possible_{order}"] = float(max(len(words) - order + 1, 0))
    lengths = {"length": float(len(words)), "reference_length": float(min(map(len, lists)))}
    return matches | possible | lengths


def _corpus_value(statistics: Sequence[dict[str, float]]) -> float:
    total = {key: sum(one[key] for one in statistics) for key in statistics[0]}
    if not all(total[f"matches_{order}"] for order in ORDERS):
        return 0.0
    logs = [math.log(total[f"matches_{order}"] / total[f"possible_{order}"]) for order in ORDERS]
    brevity = min(0.0, 1 - total["reference_length"] / total["length"])
    return math.exp(math.fsum(logs) / len(ORDERS) + brevity)


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _tokens(text: str) -> list[str]:
    return str(_tokenizer()(text)).split()


def _streams(pairs: Sequence[tuple[str, list[str]]]) -> list[tuple[str | None, ...]]:
    """sacrebleu's layout: the first reference of every example, then the second of every example, None for none."""
    return list(zip_longest(*(texts for _, texts in pairs)))


def _sacrebleu() -> Any:
    # imported at first use: sacrebleu takes 0.3 s to load
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(force=True)  # silences its advice on predictions that end in " .", as DART's references do; scores stay


@cache
def _tokenizer() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()
