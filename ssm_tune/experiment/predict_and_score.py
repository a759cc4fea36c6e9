"""A model's predictions for examples of a task, scored: what a run does on its splits, and ``evaluate`` on others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ssm_tune.data.tokenization import answer_tokens
from ssm_tune.experiment.state import ScoredPredictions
from ssm_tune.generation.predict import Outputs, Predictions, Watch, predict
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.metrics.names import among_labels, heading
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.records.record import references_sha256
from ssm_tune.tasks.among_labels import score_predictions
from ssm_tune.tasks.base import Dataset, Example, Task
from ssm_tune.utils.progress import Progress


def predict_examples(
    model: Mamba,
    tokenizer: Tokenizer,
    task: Task,
    examples: Sequence[Example],
    settings: DecodeSettings,
    progress: Progress,
    label: str,
    done: Predictions | None = None,
    watch: Watch | None = None,
) -> Outputs:
    """The model's output for every example, in the task's mode; those that ``done`` has are not made again.

    Raises Diverged where logits are not finite, UserError for an answer that is not one token.
    """
    done = Predictions() if done is None else done
    answers = answer_tokens(task, examples, tokenizer) if task.mode == "classify" else None
    predict(model, examples, tokenizer, task.mode, settings, progress, label, task.clean_up, answers, done, watch)
    return done.outputs()


def score_outputs(task: Task, outputs: Outputs, examples: Sequence[Example]) -> ScoredPredictions:
    """The outputs with their scores, of a classification also those of the likeliest labels."""
    return ScoredPredictions(outputs, score_predictions(task, outputs.texts, outputs.likeliest, examples))


def prediction_rows(examples: Sequence[Example], predictions: ScoredPredictions) -> Iterator[dict[str, Any]]:
    """One row for each example: its id, the output, its scores; of the data only a hash."""
    outputs = predictions.outputs
    rows = zip(examples, outputs.texts, predictions.scored.statistics, strict=True)
    for at, (example, output, statistics) in enumerate(rows):
        yield {
            "id": example.id,
            "output": output,
            **({"likeliest_label": outputs.likeliest[at]} if outputs.likeliest is not None else {}),
            "statistics": statistics,
            "references_sha256": references_sha256(example.references),
        }


def points(scores: dict[str, float], dataset: Dataset) -> str:
    """The scores that tables show, in percent, in one line; of a classification also that among the labels."""
    names = (*dataset.headline, among_labels(dataset.primary))
    # a split may lack a metric: the part of train that selects has no matched and mismatched half
    return "  ".join(f"{heading(name)} {100 * scores[name]:.2f}" for name in names if name in scores)
