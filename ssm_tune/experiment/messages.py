"""What a run prints at its start and where it runs out of memory."""

from __future__ import annotations

import dataclasses

from ssm_tune.experiment.run_checkpointer import RunCheckpointer
from ssm_tune.experiment.setup import Experiment
from ssm_tune.training.recompute_plan import NO_RECOMPUTE, RecomputePlan
from ssm_tune.utils.progress import Display


def print_setup(experiment: Experiment, ui: Display) -> None:
    """What was resolved, before anything slow."""
    roles, splits, backend = experiment.roles, experiment.dataset.splits, experiment.backend
    present = [split for split in dict.fromkeys(dataclasses.astuple(roles)) if split in splits]
    sizes = ", ".join(f"{len(splits[split]):,} {split}" for split in present)
    if experiment.reported_split:
        reported = f"{experiment.reported_split} is reported"
    else:
        reported = f"a trial: {roles.report} is not looked at"
    ui.say(
        f"{experiment.task.name} from {experiment.dataset.name} ({sizes}); protocol {experiment.protocol}: "
        f"{roles.selection} picks the epoch, {reported}"
    )
    if experiment.dataset.origin:
        ui.say("data: " + "; ".join(f"{what} {value}" for what, value in experiment.dataset.origin.items()))
    for note in experiment.notes:
        ui.say(f"note: {note}")
    if roles.selected_on_report:
        ui.say("note: the reported split also picks the epoch, as in the official code; this flatters the score")
    ui.say(
        f"{experiment.model_name} in {backend['dtype']} on {backend['device']}, {backend['scan']} scan "
        f"({experiment.kernels.why}); adapter in {backend['adapter_dtype']}; batch {experiment.train.batch_size}, "
        f"learning rate {experiment.train.learning_rate:g} ({experiment.learning_rate_source})"
    )
    if parts := experiment.method.parts_in_words(experiment.model.config, experiment.train.learning_rate):
        ui.say(f"parts: {parts}")


def print_plan(plan: RecomputePlan, ui: Display) -> None:
    """What is recomputed, where that is of interest."""
    if plan.recompute != NO_RECOMPUTE or plan.budget is not None:
        ui.say(plan.line())
    if excess := plan.excess():
        ui.say(f"note: {excess}")


def out_of_memory(checkpointer: RunCheckpointer, plan: RecomputePlan | None, error: str) -> str:
    """The message for a run that is out of GPU memory. error: the error's first line."""
    trainer, where = checkpointer.trainer, checkpointer.progress()
    saved = "What was saved stays, and the same command resumes from it"
    if trainer is None or trainer.current_shape is None or plan is None:
        return (
            f"out of GPU memory ({where}): {error}. {saved}: with a smaller decode.batch_size, which changes no "
            "result, if this was an evaluation"
        )
    rows, length, labels = trainer.current_shape
    what = f"in training, {where}, on {rows} x {length} tokens with {labels} label tokens"
    return f"out of GPU memory ({what}): {error}. {saved}: {plan.advice(rows)}"
