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


def heading(metric: str) -> str:
    """A metric's name as people write it."""
    name = metric.removeprefix("paper_")
    return HEADINGS.get(name, name) + (" (paper)" if name != metric else "")
