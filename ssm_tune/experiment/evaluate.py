"""ScoredPredictions of the base model and of the tuned one: made by all processes, scored by rank 0."""

from __future__ import annotations

from pathlib import Path

from ssm_tune.experiment.base_model import base_model_path, base_model_predictions
from ssm_tune.experiment.base_scores import keep_scores, read_scores
from ssm_tune.experiment.predict_and_score import points, predict_examples, prediction_rows, score_outputs
from ssm_tune.experiment.run_checkpointer import RunCheckpointer
from ssm_tune.experiment.run_folder import BASE_PREDICTIONS_NAME
from ssm_tune.experiment.setup import Experiment
from ssm_tune.experiment.state import ScoredPredictions
from ssm_tune.generation.predict import Outputs, Predictions, joined
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

    def new_predictions() -> Outputs:
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
    scores = points(predictions.scored.values, experiment.dataset)
    ui.say(f"base model  {split}: {scores}{'  (kept)' if kept else ''}")


def predict_split(checkpointer: RunCheckpointer, split: str, ui: Display, label: str) -> ScoredPredictions:
    """The tuned model's predictions on a split, of which each process makes its share; scored by rank 0.

    Raises Diverged, in all processes, where one finds logits that are not finite.
    """
    group, state = checkpointer.group, checkpointer.state
    examples = checkpointer.experiment.dataset.splits[split]
    if group.size > 1:
        label = f"{label}, share {group.rank + 1} of {group.size}"
    found: tuple[Outputs, int] | Diverged
    try:
        share = examples[group.rank :: group.size]
        outputs = _predict(checkpointer, share, ui, label) if share else Outputs([])
        found = outputs, state.predicting[label].tokens if share else 0
    except Diverged as error:
        found = error
    shares, tokens = [], 0
    for result in group.all_gather(found, checkpointer.poll):
        if isinstance(result, Diverged):
            raise result
        shares.append(result[0])
        tokens += result[1]
    scored = _scored(checkpointer, joined(shares), split) if group.is_rank_zero else None
    predictions = group.broadcast(scored, checkpointer.poll)
    assert predictions is not None
    state.generated += tokens
    state.predicting.clear()
    return predictions


def _predict(checkpointer: RunCheckpointer, examples: list[Example], ui: Display, label: str) -> Outputs:
    """The model's output for every example; those that a checkpoint has are not made again."""
    experiment = checkpointer.experiment
    done = checkpointer.state.predicting.setdefault(label, Predictions())
    model, tokenizer, task = experiment.model, experiment.tokenizer, experiment.task
    return predict_examples(model, tokenizer, task, examples, experiment.decode, ui, label, done, checkpointer)


def _scored(checkpointer: RunCheckpointer, outputs: Outputs, split: str) -> ScoredPredictions:
    """Outputs with their scores.

    Scoring may take long and cannot poll, and a signal may have ended its helper processes: when a signal asks to stop,
    the outputs are saved at once, and the scores dropped.
    """
    with checkpointer.stop_request.save_at_once(checkpointer.save):
        experiment = checkpointer.experiment
        scored = score_outputs(experiment.task, outputs, experiment.dataset.splits[split])
    checkpointer.poll()
    return scored


def write_predictions(path: Path, experiment: Experiment, predictions: ScoredPredictions | None) -> None:
    """One line for each example of the reported split: its id, the output, its scores; of the data only a hash."""
    assert predictions is not None  # both epochs that are kept have predictions
    write_jsonl(path, prediction_rows(experiment.dataset.splits[experiment.roles.report], predictions))
