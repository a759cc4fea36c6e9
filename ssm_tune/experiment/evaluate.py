"""ScoredPredictions of the base model and of the tuned one: made by all processes, scored by rank 0."""

from __future__ import annotations

from pathlib import Path

from ssm_tune.data.tokenization import answer_tokens
from ssm_tune.experiment.base_model import base_model_path, base_model_predictions
from ssm_tune.experiment.base_scores import keep_scores, read_scores
from ssm_tune.experiment.run_checkpointer import RunCheckpointer
from ssm_tune.experiment.run_folder import BASE_PREDICTIONS_NAME
from ssm_tune.experiment.setup import Experiment
from ssm_tune.experiment.state import ScoredPredictions
from ssm_tune.generation.predict import Predictions, predict
from ssm_tune.metrics.names import heading
from ssm_tune.records.record import references_sha256
from ssm_tune.tasks.base import Example
from ssm_tune.utils.errors import Diverged, UserError
from ssm_tune.utils.files import write_jsonl
from ssm_tune.utils.phases import CLOCK
from ssm_tune.utils.progress import Display


def score_base_model(checkpointer: RunCheckpointer, ui: Display) -> None:
    """Score the base model on the reported split, with kept or new predictions; done by rank 0 alone.

    Does nothing where an earlier session has done it.
    """
    group, state = checkpointer.group, checkpointer.state
    with CLOCK.phase("evaluate"):
        if group.is_rank_zero:
            written = (checkpointer.folder / BASE_PREDICTIONS_NAME).exists()
            if state.base_model is None or not written:
                _score_base_model(checkpointer, ui)
        state.base_model = group.broadcast(state.base_model, checkpointer.poll)
    checkpointer.maybe_save()


def _score_base_model(checkpointer: RunCheckpointer, ui: Display) -> None:
    experiment, state = checkpointer.experiment, checkpointer.state
    split = experiment.roles.report
    label = f"base model: {split}"

    def new_predictions() -> list[str]:
        try:
            with CLOCK.phase("frozen"):
                return _predict(checkpointer, experiment.dataset.splits[split], ui, label)
        except Diverged as error:
            raise UserError(f"the base model {experiment.model_name} cannot be used: {error}") from error

    kept = True

    def make() -> ScoredPredictions:
        nonlocal kept
        outputs, kept = base_model_predictions(experiment, new_predictions, checkpointer.poll, ui.say)
        if (scored := read_scores(experiment, outputs)) is not None:
            return ScoredPredictions(outputs, scored)
        predictions = _scored(checkpointer, outputs, split)
        keep_scores(experiment, outputs, predictions.scored)
        return predictions

    predictions = experiment.once(base_model_path(experiment), make)
    write_predictions(checkpointer.folder / BASE_PREDICTIONS_NAME, experiment, predictions)
    state.base_model = {"split": split, "values": predictions.scored.values}
    state.predicting.pop(label, None)
    scores = points(predictions.scored.values, experiment.dataset.headline)
    ui.say(f"base model  {split}: {scores}{'  (kept)' if kept else ''}")


def predict_split(checkpointer: RunCheckpointer, split: str, ui: Display, label: str) -> ScoredPredictions:
    """The tuned model's predictions on a split, of which each process makes its share; scored by rank 0.

    Raises Diverged, in all processes, where one finds logits that are not finite.
    """
    group, state = checkpointer.group, checkpointer.state
    examples = checkpointer.experiment.dataset.splits[split]
    if group.size > 1:
        label = f"{label}, share {group.rank + 1} of {group.size}"
    found: tuple[list[str], int] | Diverged
    try:
        share = examples[group.rank :: group.size]
        outputs = _predict(checkpointer, share, ui, label) if share else []
        found = outputs, state.predicting[label].tokens if share else 0
    except Diverged as error:
        found = error
    outputs, tokens = [""] * len(examples), 0
    for rank, result in enumerate(group.all_gather(found, checkpointer.poll)):
        if isinstance(result, Diverged):
            raise result
        outputs[rank :: group.size], generated = result
        tokens += generated
    scored = _scored(checkpointer, outputs, split) if group.is_rank_zero else None
    predictions = group.broadcast(scored, checkpointer.poll)
    assert predictions is not None
    state.generated += tokens
    state.predicting.clear()
    return predictions


def _predict(checkpointer: RunCheckpointer, examples: list[Example], ui: Display, label: str) -> list[str]:
    """The model's output for every example, in the task's mode; those that a checkpoint has are not made again."""
    experiment, task = checkpointer.experiment, checkpointer.experiment.task
    done = checkpointer.state.predicting.setdefault(label, Predictions())
    answers = answer_tokens(task, examples, experiment.tokenizer) if task.mode == "classify" else None
    return predict(
        experiment.model,
        examples,
        experiment.tokenizer,
        task.mode,
        experiment.decode,
        ui,
        label,
        task.clean_up,
        answers,
        done,
        checkpointer,
    )


def _scored(checkpointer: RunCheckpointer, outputs: list[str], split: str) -> ScoredPredictions:
    """Outputs with their scores.

    Scoring may take long and cannot poll, and a signal may have ended its helper processes: when a signal asks to stop,
    the outputs are saved at once, and the scores dropped.
    """
    with checkpointer.stop_request.save_at_once(checkpointer.save):
        scored = checkpointer.experiment.task.score(outputs, checkpointer.experiment.dataset.splits[split])
    checkpointer.poll()
    return ScoredPredictions(outputs, scored)


def write_predictions(path: Path, experiment: Experiment, predictions: ScoredPredictions | None) -> None:
    """One line for each example of the reported split: its id, the output, its scores; of the data only a hash."""
    assert predictions is not None  # both epochs that are kept have predictions
    examples = experiment.dataset.splits[experiment.roles.report]
    scored = zip(examples, predictions.outputs, predictions.scored.statistics, strict=True)
    write_jsonl(
        path,
        (
            {
                "id": example.id,
                "output": output,
                "statistics": statistics,
                "references_sha256": references_sha256(example.references),
            }
            for example, output, statistics in scored
        ),
    )


def points(scores: dict[str, float], names: tuple[str, ...]) -> str:
    """The scores in percent, in one line."""
    # a split may lack a metric: the part of train that selects has no matched and mismatched half
    return "  ".join(f"{heading(name)} {100 * scores[name]:.2f}" for name in names if name in scores)
