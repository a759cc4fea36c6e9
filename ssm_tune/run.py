"""One run, read top to bottom: prepare, score the frozen model, train, pick the epoch, report, record."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssm_tune.cell import claimed
from ssm_tune.config import Config
from ssm_tune.errors import UserError
from ssm_tune.frozen import frozen_outputs
from ssm_tune.logger import Logger, make_logger, require_wandb
from ssm_tune.loop import Diverged, Trained, classify, decode, train
from ssm_tune.methods.base import attach
from ssm_tune.outcome import Answers, Evaluated, State, about_model, make_record, total_parameters
from ssm_tune.prepare import Prepared, prepare
from ssm_tune.progress import Bars, Lines, progress
from ssm_tune.provenance import reset_peak_memory
from ssm_tune.record import RECORD_NAME, Record, read_record, references_sha256, write_jsonl, write_record
from ssm_tune.tables import heading
from ssm_tune.tokens import training_sequences


@dataclass(frozen=True)
class Finished:
    """path: of record.json; fresh: whether this call ran the cell; diverged: why, if it did."""

    path: Path
    record: Record
    fresh: bool
    diverged: str | None = None


def run(config: Config) -> Finished:
    """Run the cell that ``config`` describes, unless its record exists already.

    Raises UserError for whatever the user can mend; nothing that looks complete is left then.
    """
    # states that decay to nothing become denormal numbers, on which a CPU is slower than on zeros
    torch.set_flush_denormal(True)
    try:
        return _claim_and_run(config, progress())
    finally:
        torch.set_flush_denormal(False)  # it is a state of the processor, not ours to keep


def _claim_and_run(config: Config, ui: Bars | Lines) -> Finished:
    begun = time.perf_counter()
    reset_peak_memory()
    if config.logger == "wandb":
        require_wandb()  # before the data and the model: a missing package is quickly told
    prepared = prepare(config)
    folder = prepared.folder
    about = prepared.cell | {"train": dataclasses.asdict(prepared.train), "backend": prepared.backend}
    logger = make_logger(config.logger, Path(config.output_dir), prepared.key, folder.name, about, ui.say)
    with claimed(folder):
        kept = None if config.force else _kept(folder)
        if kept is not None and (kept["metrics"]["frozen"] or not config.frozen):
            return Finished(folder / RECORD_NAME, kept, fresh=False)
        for left in folder.iterdir():  # of a run that was stopped, or that is to be run again
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        state = State(notes=list(prepared.notes))
        state.seconds["load"] = time.perf_counter() - begun
        _introduce(prepared, ui)
        finished: Finished | None = None
        try:
            finished = _run(prepared, folder, state, ui, logger)
            return finished
        finally:
            ui.stop()
            logger.finish(finished.record if finished else None)


def _kept(folder: Path) -> Record | None:
    return read_record(folder) if (folder / RECORD_NAME).exists() else None


def _run(prepared: Prepared, folder: Path, state: State, ui: Bars | Lines, logger: Logger) -> Finished:
    task, roles, report = prepared.task, prepared.roles, prepared.dataset.splits[prepared.roles.report]
    begun = time.perf_counter()
    # before anything slow: a text that cannot be tokenised ends the run
    sequences = training_sequences(prepared.dataset.splits[roles.train], task, prepared.tokenizer)
    frozen = _frozen_score(prepared, folder, state, ui) if prepared.config.frozen else None

    base = sum(parameter.numel() for parameter in prepared.model.parameters())
    adapter = attach(prepared.model, prepared.method, seed=prepared.config.seed, dtype=prepared.adapter_dtype)
    ui.say(f"{prepared.method.name} trains {adapter.trainable:,} of {total_parameters(adapter):,} parameters")

    def decoded(split: str, label: str) -> list[str]:
        started = time.perf_counter()
        outputs, tokens = _answers(prepared, split, ui, label)
        state.generated += tokens
        state.seconds["evaluate"] = (state.seconds["evaluate"] or 0.0) + time.perf_counter() - started
        return outputs

    def evaluate(epoch: int, step: int) -> None:
        outputs = decoded(roles.selection, f"epoch {epoch}: {roles.selection}")
        scored = task.score(outputs, prepared.dataset.splits[roles.selection])
        reported = Answers(outputs, scored) if roles.selected_on_report else None
        here = Evaluated(epoch, step, scored.values, adapter.tensors(), reported)
        state.epochs.append({"epoch": epoch, "step": step, "train_loss": None, "selection": scored.values})
        primary = prepared.dataset.primary
        if state.best is None or scored.values[primary] > state.best.selection[primary]:
            state.best = here
        state.last = here
        logger.epoch(state.epochs[-1])
        ui.say(f"epoch {epoch}  {roles.selection}: {_points(scored.values, prepared.dataset.headline)}")

    trained, diverged = Trained(on_step=logger.step), None
    logger.start(trained.steps, state.epochs)
    try:
        train(adapter, sequences, prepared.train, prepared.tokenizer.eos_id, evaluate, ui, trained)
    except Diverged as error:
        ui.stop()
        diverged, state.last = str(error), None
    if trained.stopped:
        state.notes.append(f"training stopped early: {trained.stopped}")
    state.seconds["train"] = trained.seconds
    _fill_train_losses(state, trained)

    for chosen in _distinct(state.last, state.best):  # the best last: its weights stay in the model
        adapter.restore(chosen.tensors)
        try:
            if chosen.report is None:
                outputs = decoded(roles.report, f"{roles.report}, epoch {chosen.epoch}")
                chosen.report = Answers(outputs, task.score(outputs, report))
        except Diverged as error:
            diverged = str(error)
            state.best, state.last = (None if one is chosen else one for one in (state.best, state.last))
    if diverged:
        state.notes.append(f"diverged: {diverged}")

    write_jsonl(folder / "steps.jsonl", trained.steps)
    if state.best is not None:
        _write_predictions(folder / "predictions.jsonl", prepared, state.best.report)
        adapter.save(folder / "adapter", about_model(prepared))
    if state.last is not None and state.last is not state.best:
        _write_predictions(folder / "predictions-last.jsonl", prepared, state.last.report)
    total = time.perf_counter() - begun + (state.seconds["load"] or 0.0)
    record = make_record(prepared, adapter, state, trained, frozen, base, total, diverged)
    return Finished(write_record(folder, record), record, fresh=True, diverged=diverged)


def _introduce(prepared: Prepared, ui: Bars | Lines) -> None:
    """Say what was resolved, before the work."""
    roles, splits, backend = prepared.roles, prepared.dataset.splits, prepared.backend
    sizes = ", ".join(f"{len(splits[split]):,} {split}" for split in dict.fromkeys(dataclasses.astuple(roles)))
    ui.say(
        f"{prepared.task.name} from {prepared.dataset.name} ({sizes}); protocol {prepared.protocol}: "
        f"{roles.selection} picks the epoch, {roles.report} is reported"
    )
    if prepared.dataset.origin:
        ui.say("data: " + "; ".join(f"{what} {value}" for what, value in prepared.dataset.origin.items()))
    for note in prepared.notes:
        ui.say(f"note: {note}")
    if roles.selected_on_report:
        ui.say("note: the reported split also picks the epoch, as in the official code; the score is flattered")
    ui.say(
        f"{prepared.model_name} in {backend['dtype']} on {backend['device']}, {backend['scan']} scan "
        f"({prepared.kernels.why}); adapter in {backend['adapter_dtype']}; batch {prepared.train.batch_size}, "
        f"learning rate {prepared.train.learning_rate:g} ({prepared.learning_rate_source})"
    )


def _frozen_score(prepared: Prepared, folder: Path, state: State, ui: Bars | Lines) -> dict[str, Any]:
    """The untrained model's score on the report split, decoded or from the cache."""
    split = prepared.roles.report
    examples = prepared.dataset.splits[split]
    begun = time.perf_counter()

    def fresh() -> list[str]:
        try:
            return _answers(prepared, split, ui, f"frozen model: {split}")[0]
        except Diverged as error:
            raise UserError(f"the frozen {prepared.model_name} cannot be used: {error}") from error

    outputs, cached = frozen_outputs(prepared, fresh)
    if not cached:
        state.seconds["frozen"] = time.perf_counter() - begun
    scored = prepared.task.score(outputs, examples)
    _write_predictions(folder / "predictions-frozen.jsonl", prepared, Answers(outputs, scored))
    points = _points(scored.values, prepared.dataset.headline)
    ui.say(f"frozen model  {split}: {points}{'  (kept)' if cached else ''}")
    return {"split": split, "values": scored.values}


def _answers(prepared: Prepared, split: str, ui: Bars | Lines, label: str) -> tuple[list[str], int]:
    """The model's answer to every example of a split, as the task's mode has it, and the tokens generated."""
    task, examples = prepared.task, prepared.dataset.splits[split]
    answer = classify if task.mode == "classify" else decode
    return answer(prepared.model, examples, prepared.tokenizer, prepared.decode, ui, label, task.clean_up)


def _write_predictions(path: Path, prepared: Prepared, answers: Answers | None) -> None:
    """A line an example of the report split: its id, the output, its scores; of the data only a hash."""
    assert answers is not None  # both epochs that are kept have answered the report split
    examples = prepared.dataset.splits[prepared.roles.report]
    write_jsonl(
        path,
        (
            {
                "id": example.id,
                "output": output,
                "statistics": statistics,
                "references_sha256": references_sha256(example.references),
            }
            for example, output, statistics in zip(examples, answers.outputs, answers.scored.statistics, strict=True)
        ),
    )


def _fill_train_losses(state: State, trained: Trained) -> None:
    """Each evaluation's mean training loss since the one before."""
    before = 0
    for row in state.epochs:
        losses = [step["loss"] for step in trained.steps[before : row["step"]]]
        mean = math.fsum(losses) / len(losses)
        row["train_loss"] = mean if math.isfinite(mean) else None
        before = row["step"]


def _distinct(*evaluated: Evaluated | None) -> list[Evaluated]:
    found: list[Evaluated] = []
    for one in evaluated:
        if one is not None and all(one is not other for other in found):
            found.append(one)
    return found


def _points(scores: dict[str, float], names: tuple[str, ...]) -> str:
    # a split may lack a metric: the part of train that selects has no matched and mismatched half
    return "  ".join(f"{heading(name)} {100 * scores[name]:.2f}" for name in names if name in scores)
