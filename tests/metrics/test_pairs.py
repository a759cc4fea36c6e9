"""What every text metric refuses, and that it refuses it by name."""

from collections.abc import Callable
from typing import Any

import pytest

from ssm_tune.metrics.bleu import bleu, bleu_scored, sacrebleu
from ssm_tune.metrics.meteor import meteor
from ssm_tune.metrics.pairs import paired
from ssm_tune.metrics.rouge import rouge, rouge_scored

METRICS = [bleu, bleu_scored, sacrebleu, meteor, rouge, rouge_scored]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "no predictions"),
        (["a"], [], "1 predictions for 0"),
        (["a", "b", "c"], ["a", ("b", "c"), ()], "prediction 2 .* no reference"),
    ],
    ids=["none", "fewer", "no-reference"],
)
def test_refused(metric: Callable[..., Any], predictions: list[str], references: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(predictions, references)


def test_one_string_is_one_reference() -> None:
    assert paired(["a", "b"], ["xy", ("x", "y")]) == [("a", ["xy"]), ("b", ["x", "y"])]
