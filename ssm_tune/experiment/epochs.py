"""What follows steps and epochs of a run: its evaluations, what is kept of them, and the final predictions."""

from __future__ import annotations

from ssm_tune.experiment.evaluate import predict_split
from ssm_tune.experiment.metric_logger import MetricLogger
from ssm_tune.experiment.predict_and_score import points
from ssm_tune.experiment.run_checkpointer import RunCheckpointer
from ssm_tune.experiment.state import EpochResult
from ssm_tune.methods.adapter import Adapter
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Diverged
from ssm_tune.utils.phases import CLOCK
from ssm_tune.utils.progress import Display


def after_epoch(
    checkpointer: RunCheckpointer, trainer: Trainer, epoch: int, step: int, ui: Display, logger: MetricLogger
) -> None:
    """Evaluate the epoch that has ended with ``step``, unless that is not asked for or an earlier session did it."""
    experiment, state = checkpointer.experiment, checkpointer.state
    done = bool(state.epochs) and state.epochs[-1]["step"] == step
    if done or (not trainer.finished and epoch % experiment.config.train.evaluate_every):
        return
    with CLOCK.phase("evaluate"):
        _evaluate(checkpointer, trainer, epoch, step, ui)
    logger.log_epoch(state.epochs[-1])
    state.trained = trainer.finished
    checkpointer.maybe_save()


def after_steps(checkpointer: RunCheckpointer, rows: list[dict[str, float]], logger: MetricLogger) -> None:
    """Log the rows of the steps that were read, and save if it is time."""
    for row in rows:
        logger.log_step(row)
    checkpointer.on_step_end(len(rows))


def after_divergence(checkpointer: RunCheckpointer, error: Diverged) -> None:
    """Training is over: what diverged leaves no last epoch."""
    state = checkpointer.state
    state.diverged, state.last, state.trained = str(error), None, True
    state.predicting.clear()
    checkpointer.maybe_save()


def report(checkpointer: RunCheckpointer, adapter: Adapter, ui: Display) -> None:
    """Predictions of the kept epochs on the reported split, if there is one; the adapter is that of the best then."""
    split = checkpointer.experiment.reported_split
    if split is None:
        return
    with CLOCK.phase("evaluate"):
        for epoch in checkpointer.state.kept_epochs():  # the best is the last: the adapter stays as it was then
            _report_epoch(checkpointer, adapter, epoch, split, ui)


def _evaluate(checkpointer: RunCheckpointer, trainer: Trainer, epoch: int, step: int, ui: Display) -> None:
    """Score the selection split, and keep the epoch if it is the best so far."""
    experiment, state = checkpointer.experiment, checkpointer.state
    split, primary = experiment.roles.selection, experiment.dataset.primary
    predictions = predict_split(checkpointer, split, ui, f"epoch {epoch}: {split}")
    values = predictions.scored.values
    report = predictions if experiment.roles.selected_on_report else None
    state.last = EpochResult(epoch, step, values, trainer.adapter.tensors(), report)
    state.epochs.append({"epoch": epoch, "step": step, "train_loss": None, "selection": values})
    if state.best is None or values[primary] > state.best.selection[primary]:
        state.best = state.last
    ui.say(f"epoch {epoch}  {split}: {points(values, experiment.dataset)}")


def _report_epoch(checkpointer: RunCheckpointer, adapter: Adapter, epoch: EpochResult, split: str, ui: Display) -> None:
    """Set the adapter to an epoch, and make its predictions on the reported split unless there are some."""
    adapter.load_tensors(epoch.tensors)
    try:
        if epoch.report is None:
            epoch.report = predict_split(checkpointer, split, ui, f"{split}, epoch {epoch.epoch}")
            checkpointer.maybe_save()
    except Diverged as error:
        checkpointer.state.diverged = str(error)
        checkpointer.state.drop(epoch)
