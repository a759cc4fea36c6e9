"""One run, read top to bottom: prepare, score the frozen model, train, pick the epoch, report, record."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ssm_tune.answering import Answered, classify, decode
from ssm_tune.capture import CudaCapture
from ssm_tune.claim import claimed
from ssm_tune.config import Config
from ssm_tune.errors import Stopped, UserError
from ssm_tune.frozen import frozen_outputs
from ssm_tune.interruption import interruptible
from ssm_tune.logger import Logger, make_logger, require_wandb
from ssm_tune.loop import Diverged, Trained, Training, train
from ssm_tune.methods.base import Adapter, attach
from ssm_tune.outcome import (
    Answers,
    Evaluated,
    about_model,
    distinct,
    fill_train_losses,
    make_record,
    make_trial,
    total_parameters,
)
from ssm_tune.prepare import Prepared, prepare
from ssm_tune.progress import Bars, Lines, progress
from ssm_tune.provenance import reset_peak_memory
from ssm_tune.record import RECORD_NAME, Record, read_record, references_sha256, write_jsonl, write_record
from ssm_tune.session import Session
from ssm_tune.tables import heading
from ssm_tune.tokens import training_sequences
from ssm_tune.trial import TRIAL_NAME, Trial, read_trial, write_trial
from ssm_tune.unchanged import check_model


@dataclass(frozen=True)
class Finished:
    """path: of record.json, of a trial of trial.json; fresh: whether this call ran the cell."""

    path: Path
    record: Record | Trial
    fresh: bool


def run(config: Config) -> Finished:
    """Run the cell that ``config`` describes, unless its record exists already; go on where it was stopped.

    Raises UserError for whatever the user can mend; nothing that looks complete is left then. Raises Stopped where a
    signal asked for it, with the state saved.
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
    with claimed(folder), interruptible() as interruption:
        session = Session(prepared, folder, interruption, begun)
        path = folder / (TRIAL_NAME if config.trial else RECORD_NAME)
        anew = config.force or path.exists()
        if not config.force and path.exists() and (kept := _kept(path, config)) is not None:
            session.checkpoints.remove()  # of a run that was killed right behind its record
            return Finished(path, kept, fresh=False)
        check_model(prepared)
        _introduce(prepared, ui)
        _open(session, ui, anew)
        session.state.seconds["load"] = (session.state.seconds["load"] or 0.0) + time.perf_counter() - begun
        about = prepared.cell | {"train": dataclasses.asdict(prepared.train), "backend": prepared.backend}
        logger = make_logger(config.logger, Path(config.output_dir), prepared.key, folder.name, about, ui.say)
        finished: Finished | None = None
        try:
            finished = _run(session, ui, logger)
        except torch.OutOfMemoryError as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"out of GPU memory ({session.where()}): {first}. What was saved stays, and the same command goes on "
                "from it: with a smaller decode.batch_size, which changes no result, if this was an evaluation"
            ) from error
        finally:
            ui.stop()
            logger.finish(finished.record if finished else None)
        if interruption.signal is not None:  # too late for this cell, but others may follow
            raise Stopped(f"stopped; this cell is done, record: {finished.path}", interruption.signal)
        return finished


def _kept(path: Path, config: Config) -> Record | Trial | None:
    """The record at ``path`` if it has all that is asked for."""
    if config.trial:
        return read_trial(path)
    record = read_record(path)
    return record if record["metrics"]["frozen"] or not config.frozen else None


def _open(session: Session, ui: Bars | Lines, anew: bool) -> None:
    """Go on from the newest checkpoint, if there is one, and clear away what else an earlier session left."""
    if anew:
        session.checkpoints.remove()
    checkpoint = session.checkpoints.newest(ui.say)
    for left in session.folder.iterdir():
        ours = left == session.checkpoints.folder or (checkpoint and left.name.startswith("predictions-frozen."))
        if not ours:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if checkpoint is not None:
        ui.say(session.resume(checkpoint))


def _run(session: Session, ui: Bars | Lines, logger: Logger) -> Finished:
    prepared, state, folder = session.prepared, session.state, session.folder
    roles = prepared.roles
    # before anything slow: a text that cannot be tokenised ends the run
    sequences = training_sequences(prepared.dataset.splits[roles.train], prepared.task, prepared.tokenizer)
    if prepared.config.frozen and state.frozen is None:
        _score_frozen(session, ui)

    base = sum(parameter.numel() for parameter in prepared.model.parameters())
    adapter = attach(prepared.model, prepared.method, seed=prepared.config.seed, dtype=prepared.adapter_dtype)
    ui.say(f"{prepared.method.name} trains {adapter.trainable:,} of {total_parameters(adapter):,} parameters")
    wanted = prepared.kernels.name == "cuda" and prepared.config.train.cuda_graphs == "auto"
    capture = CudaCapture(prepared.model.device) if wanted else None
    training = Training(adapter, sequences, prepared.train, prepared.tokenizer.eos_id, capture)
    session.adopt(training)
    if not state.trained:
        _train(session, training, ui, logger)
    state.seconds["train"] = training.trained.seconds
    fill_train_losses(state, training.trained)

    if prepared.config.trial:
        return _tried(session, adapter, training.trained, base)
    for chosen in distinct(state.last, state.best):  # the best last: its weights stay in the model
        adapter.restore(chosen.tensors)
        try:
            if chosen.report is None:
                label = f"{roles.report}, epoch {chosen.epoch}"
                chosen.report = _answers(session, roles.report, ui, label)
                state.generated += state.answered.pop(label).tokens
                session.milestone()
        except Diverged as error:
            state.diverged = str(error)
            state.best, state.last = (None if one is chosen else one for one in (state.best, state.last))

    write_jsonl(folder / "steps.jsonl.gz", training.trained.steps)
    if state.best is not None:
        _write_predictions(folder / "predictions.jsonl.gz", prepared, state.best.report)
        adapter.save(folder / "adapter", about_model(prepared))
    if state.last is not None and state.last is not state.best:
        _write_predictions(folder / "predictions-last.jsonl.gz", prepared, state.last.report)
    state.elapsed, state.peak_memory = session.elapsed(), session.peak_memory()
    record = make_record(prepared, adapter, state, training.trained, base)
    path = write_record(folder, record)
    session.checkpoints.remove()
    return Finished(path, record, fresh=True)


def _tried(session: Session, adapter: Adapter, trained: Trained, base: int) -> Finished:
    """A trial ends here: what it was for are its scores on the selection split."""
    prepared, state, folder = session.prepared, session.state, session.folder
    write_jsonl(folder / "steps.jsonl.gz", trained.steps)
    state.elapsed, state.peak_memory = session.elapsed(), session.peak_memory()
    trial = make_trial(prepared, adapter, state, trained, base)
    path = write_trial(folder, trial)
    session.checkpoints.remove()
    return Finished(path, trial, fresh=True)


def _train(session: Session, training: Training, ui: Bars | Lines, logger: Logger) -> None:
    """Train and evaluate until training is over; the state keeps the best and the last epoch."""
    prepared, state, roles = session.prepared, session.state, session.prepared.roles
    primary = prepared.dataset.primary

    def evaluate(epoch: int, step: int) -> None:
        if state.epochs and state.epochs[-1]["step"] == step:
            return  # an earlier session's, which ended before the next step
        if not training.finished and epoch % prepared.config.train.evaluate_every:
            return
        label = f"epoch {epoch}: {roles.selection}"
        answers = _answers(session, roles.selection, ui, label)
        values = answers.scored.values
        here = Evaluated(epoch, step, values, training.adapter.tensors(), answers if roles.selected_on_report else None)
        state.epochs.append({"epoch": epoch, "step": step, "train_loss": None, "selection": values})
        if state.best is None or values[primary] > state.best.selection[primary]:
            state.best = here
        state.last = here
        logger.epoch(state.epochs[-1])
        state.generated += state.answered.pop(label).tokens
        ui.say(f"epoch {epoch}  {roles.selection}: {_points(values, prepared.dataset.headline)}")
        if training.finished:
            state.trained = True
        session.milestone()

    def after_step(row: dict[str, float]) -> None:
        logger.step(row)
        session.tick()

    logger.start(training.trained.steps, state.epochs)
    try:
        train(training, evaluate, ui, after_step=after_step)
    except Diverged as error:
        ui.stop()
        state.diverged, state.last, state.trained = str(error), None, True
        state.answered.clear()
        session.milestone()


def _introduce(prepared: Prepared, ui: Bars | Lines) -> None:
    """Say what was resolved, before the work."""
    roles, splits, backend = prepared.roles, prepared.dataset.splits, prepared.backend
    there = [split for split in dict.fromkeys(dataclasses.astuple(roles)) if split in splits]
    sizes = ", ".join(f"{len(splits[split]):,} {split}" for split in there)
    reported = f"a trial: {roles.report} is not looked at" if prepared.config.trial else f"{roles.report} is reported"
    ui.say(
        f"{prepared.task.name} from {prepared.dataset.name} ({sizes}); protocol {prepared.protocol}: "
        f"{roles.selection} picks the epoch, {reported}"
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


def _score_frozen(session: Session, ui: Bars | Lines) -> None:
    """The untrained model's score on the report split, decoded or from the cache."""
    prepared, state, split = session.prepared, session.state, session.prepared.roles.report
    label = f"frozen model: {split}"

    def fresh() -> list[str]:
        try:
            return _outputs(session, split, ui, label, "frozen")
        except Diverged as error:
            raise UserError(f"the frozen {prepared.model_name} cannot be used: {error}") from error

    outputs, cached = frozen_outputs(prepared, fresh, session.poll)
    answers = _scored(session, outputs, split)
    _write_predictions(session.folder / "predictions-frozen.jsonl.gz", prepared, answers)
    state.frozen = {"split": split, "values": answers.scored.values}
    state.answered.pop(label, None)
    points = _points(answers.scored.values, prepared.dataset.headline)
    ui.say(f"frozen model  {split}: {points}{'  (kept)' if cached else ''}")
    session.milestone()


def _answers(session: Session, split: str, ui: Bars | Lines, label: str) -> Answers:
    return _scored(session, _outputs(session, split, ui, label, "evaluate"), split)


def _outputs(session: Session, split: str, ui: Bars | Lines, label: str, phase: str) -> list[str]:
    """The model's answer to every example of a split, as the task's mode has it; those given already are kept."""
    prepared, task, examples = session.prepared, session.prepared.task, session.prepared.dataset.splits[split]
    answered = session.state.answered.setdefault(label, Answered())
    answer = classify if task.mode == "classify" else decode
    with session.timed(phase):
        outputs, _ = answer(
            prepared.model, examples, prepared.tokenizer, prepared.decode, ui, label, task.clean_up, answered, session
        )
    return outputs


def _scored(session: Session, outputs: list[str], split: str) -> Answers:
    """Outputs and what they score. Scoring may be long and cannot be polled, and a signal may have ended its helpers:
    a request to stop is met with the outputs saved, and the scores dropped."""
    with session.interruption.at_once(session.save):
        scored = session.prepared.task.score(outputs, session.prepared.dataset.splits[split])
    session.poll()
    return Answers(outputs, scored)


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


def _points(scores: dict[str, float], names: tuple[str, ...]) -> str:
    # a split may lack a metric: the part of train that selects has no matched and mismatched half
    return "  ".join(f"{heading(name)} {100 * scores[name]:.2f}" for name in names if name in scores)
