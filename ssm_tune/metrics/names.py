"""Metrics' names as tables and messages write them."""

HEADINGS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "meteor": "METEOR",
    "meteor_no_synonyms": "METEOR w/o synonyms",
    "bleu": "BLEU",
    "sacrebleu": "sacreBLEU",
    "accuracy_matched": "matched",
    "accuracy_mismatched": "mismatched",
    "outside_labels": "no label",
    "f1": "F1",
    "matthews": "Matthews",
    "exact": "exact match",
}


AMONG_LABELS = "_among_labels"
"""How the names of metrics end that take the likeliest of the labels as the answer, whatever else is likelier."""


def among_labels(metric: str) -> str:
    """The name of a classification metric over the likeliest labels; no answer is outside, so both protocols agree."""
    return metric.removeprefix("paper_") + AMONG_LABELS


def heading(metric: str) -> str:
    """A metric's name as people write it."""
    if metric.endswith(AMONG_LABELS):
        return f"{heading(metric.removesuffix(AMONG_LABELS))} among labels"
    name = metric.removeprefix("paper_")
    return HEADINGS.get(name, name) + (" (paper)" if name != metric else "")
