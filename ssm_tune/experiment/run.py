"""One run, read top to bottom: prepare, score the frozen model, train, pick the epoch, report, record."""

from __future__ import annotations

import dataclasses
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from ssm_tune.config.schema import Config
from ssm_tune.data.collator import length_bucket
from ssm_tune.data.token_cache import TokenizedDataset, tokenized_training_set
from ssm_tune.experiment.evaluate import answers_of, points, score_frozen, write_predictions
from ssm_tune.experiment.metric_logger import Logger, make_logger, require_wandb
from ssm_tune.experiment.run_checkpointer import Session
from ssm_tune.experiment.run_lock import claimed
from ssm_tune.experiment.setup import Prepared, check_model, prepare
from ssm_tune.experiment.signals import interruptible
from ssm_tune.experiment.state import (
    Evaluated,
    about_model,
    distinct,
    fill_train_losses,
    make_record,
    make_trial,
    total_parameters,
)
from ssm_tune.methods.base import Adapter, attach
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.records.provenance import reset_peak_memory
from ssm_tune.records.record import RECORD_NAME, read_record, write_record
from ssm_tune.records.schema import Record
from ssm_tune.records.trial import TRIAL_NAME, Trial, read_trial, write_trial
from ssm_tune.training.checkpoint import Checkpoint
from ssm_tune.training.determinism import fix_cublas_workspace
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup, process_group
from ssm_tune.training.recompute_plan import NO_RECOMPUTE, RecomputePlan, plan_recompute
from ssm_tune.training.trainer import Trainer, TrainResult
from ssm_tune.utils.errors import Diverged, Stopped, UserError
from ssm_tune.utils.files import write_jsonl
from ssm_tune.utils.progress import Display, Silent, progress


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
        if config.train.deterministic and config.device != "cpu":
            fix_cublas_workspace()
        with process_group(config.device) as world:
            return _claim_and_run(config, progress() if world.is_rank_zero else Silent(), world)
    finally:
        torch.set_flush_denormal(False)  # it is a state of the processor, not ours to keep


def _claim_and_run(config: Config, ui: Display, world: ProcessGroup) -> Finished:
    begun = time.perf_counter()
    reset_peak_memory()
    if config.logger == "wandb":
        require_wandb()  # before the data and the model: a missing package is quickly told
    prepared = prepare(config, world)
    folder = prepared.folder
    if any(key != prepared.key for key in world.all_gather(prepared.key)):
        raise UserError("the processes do not train the same cell: their data or models differ")
    with (
        claimed(folder) if world.is_rank_zero else nullcontext(),
        world.propagate_failures(),
        interruptible() as interruption,
    ):
        session = Session(prepared, folder, interruption, begun, world)
        path = _goal(prepared)
        exists = world.broadcast(path.exists())
        kept = world.broadcast(_kept(path, config) if world.is_rank_zero and exists and not config.force else None)
        if kept is not None:
            if world.is_rank_zero:
                session.checkpoints.delete()  # of a run that was killed right behind its record
            return Finished(path, kept, fresh=False)
        if world.is_rank_zero:
            check_model(prepared)
        _introduce(prepared, ui)
        _open(session, ui, anew=config.force or exists)
        session.state.seconds["load"] = (session.state.seconds["load"] or 0.0) + time.perf_counter() - begun
        about = prepared.cell | {"train": dataclasses.asdict(prepared.train), "backend": prepared.backend}
        wanted = config.logger if world.is_rank_zero else "none"
        logger = make_logger(wanted, Path(config.output_dir), prepared.key, folder.name, about, ui.say)
        finished: Finished | None = None
        try:
            finished = _run(session, ui, logger)
        except torch.OutOfMemoryError as error:
            raise UserError(_without_memory(session, str(error).strip().splitlines()[0])) from error
        finally:
            ui.stop()
            logger.finish(finished.record if finished else None)
        if interruption.signal is not None:  # too late for this cell, but others may follow
            raise Stopped(f"stopped; this cell is done, record: {finished.path}", interruption.signal)
        return finished


def _without_memory(session: Session, first: str) -> str:
    """What to say of a run that is out of GPU memory. first: the first line of the error."""
    training, saved = session.training, "What was saved stays, and the same command goes on from it"
    if training is None or training.current_shape is None or session.plan is None:
        return (
            f"out of GPU memory ({session.where()}): {first}. {saved}: with a smaller decode.batch_size, which changes "
            "no result, if this was an evaluation"
        )
    rows, length, labels = training.current_shape
    what = f"in training, {session.where()}, on {rows} x {length} tokens with {labels} label tokens"
    return f"out of GPU memory ({what}): {first}. {saved}: {session.plan.advice(rows)}"


def _goal(prepared: Prepared) -> Path:
    """The file that says that the cell is done, written last."""
    return prepared.folder / (TRIAL_NAME if prepared.config.trial else RECORD_NAME)


def _kept(path: Path, config: Config) -> Record | Trial | None:
    """The record at ``path`` if it has all that is asked for."""
    if config.trial:
        return read_trial(path)
    record = read_record(path)
    return record if record["metrics"]["frozen"] or not config.frozen else None


def _open(session: Session, ui: Display, anew: bool) -> None:
    """Go on from the newest checkpoint, if there is one, and clear away what else an earlier session left."""
    checkpoint = session.world.broadcast(_cleared(session, ui, anew) if session.world.is_rank_zero else None)
    if checkpoint is not None:
        ui.say(session.resume(checkpoint))


def _cleared(session: Session, ui: Display, anew: bool) -> Checkpoint | None:
    if anew:
        session.checkpoints.delete()
    checkpoint = session.checkpoints.load_newest(ui.say)
    for left in session.folder.iterdir():
        ours = left == session.checkpoints.folder or (checkpoint and left.name.startswith("predictions-frozen."))
        if not ours:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return checkpoint


def _run(session: Session, ui: Display, logger: Logger) -> Finished:
    prepared, state, world = session.prepared, session.state, session.world
    roles = prepared.roles
    # before anything slow: a text that cannot be tokenised ends the run
    sequences = tokenized_training_set(prepared.dataset.splits[roles.train], prepared.task, prepared.tokenizer)
    session.plan = _planned(prepared, sequences, world, ui)
    if prepared.config.frozen and state.frozen is None:
        score_frozen(session, ui)

    base = sum(parameter.numel() for parameter in prepared.model.parameters())
    adapter = attach(prepared.model, prepared.method, seed=prepared.config.seed, dtype=prepared.adapter_dtype)
    ui.say(f"{prepared.method.name} trains {adapter.trainable:,} of {total_parameters(adapter):,} parameters")
    capture = CudaCapture(prepared.model.device) if captures(prepared) else None
    session.plan.apply(prepared.model)
    training = Trainer(
        adapter, sequences, prepared.train, prepared.tokenizer.eos_id, capture, prepared.config.train.micro_batch,
        world, deterministic=prepared.config.train.deterministic,
    )  # fmt: skip
    session.adopt(training)
    if not state.trained:
        _train(session, training, ui, logger)
    state.seconds["train"] = training.result.seconds
    fill_train_losses(state, training.result)

    # a trial does not look at the reported split
    for chosen in () if prepared.config.trial else distinct(state.last, state.best):  # the best last: it stays
        adapter.load_tensors(chosen.tensors)
        try:
            if chosen.report is None:
                label = f"{roles.report}, epoch {chosen.epoch}"
                chosen.report = answers_of(session, roles.report, ui, label)
                session.milestone()
        except Diverged as error:
            state.diverged = str(error)
            state.best, state.last = (None if one is chosen else one for one in (state.best, state.last))

    record = world.broadcast(_leave(session, adapter, training.result, base) if world.is_rank_zero else None)
    assert record is not None
    return Finished(_goal(prepared), record, fresh=True)


def captures(prepared: Prepared) -> bool:
    """Whether the cell's steps run as CUDA graphs."""
    return prepared.kernels.name == "cuda" and prepared.config.train.cuda_graphs == "auto"


def memory_plan(prepared: Prepared, sequences: TokenizedDataset, world: ProcessGroup = SINGLE_PROCESS) -> RecomputePlan:
    """How the longest batch that the training may meet is computed."""
    train = prepared.config.train
    rows = train.micro_batch or prepared.train.batch_size // world.size
    length, labels = max(sequences.lengths()) - 1, rows * int(sequences.labels.max())
    if captures(prepared):
        length, labels = length_bucket(length, labels)
    longest = rows, length, labels
    return plan_recompute(
        prepared.model, prepared.method, prepared.adapter_dtype, longest, train.recompute, train.memory
    )


def _planned(prepared: Prepared, sequences: TokenizedDataset, world: ProcessGroup, ui: Display) -> RecomputePlan:
    """``memory_plan``, said before anything slow."""
    chosen = memory_plan(prepared, sequences, world)
    if chosen.recompute != NO_RECOMPUTE or chosen.budget is not None:
        ui.say(chosen.line())
    if excess := chosen.excess():
        ui.say(f"note: {excess}")
    return chosen


def _leave(session: Session, adapter: Adapter, trained: TrainResult, base: int) -> Record | Trial:
    """Write all that stays of the run, what says that it is done last."""
    prepared, state, folder = session.prepared, session.state, session.folder
    write_jsonl(folder / "steps.jsonl.gz", trained.steps)
    if not prepared.config.trial:  # what a trial was for are its scores on the selection split
        _leave_answers(session, adapter)
    state.elapsed, state.peak_memory = session.elapsed(), session.peak_memory()
    about = prepared, adapter, state, trained, base, session.how()
    done: Record | Trial
    if prepared.config.trial:
        done = make_trial(*about)
        write_trial(folder, done)
    else:
        done = make_record(*about)
        write_record(folder, done)
    session.checkpoints.delete()
    return done


def _leave_answers(session: Session, adapter: Adapter) -> None:
    """The adapter of the best epoch, and the answers of the best and of the last one to the reported split."""
    prepared, state, folder = session.prepared, session.state, session.folder
    if state.best is not None:
        write_predictions(folder / "predictions.jsonl.gz", prepared, state.best.report)
        adapter.save(folder / "adapter", about_model(prepared))
    if state.last is not None and state.last is not state.best:
        write_predictions(folder / "predictions-last.jsonl.gz", prepared, state.last.report)


def _train(session: Session, training: Trainer, ui: Display, logger: Logger) -> None:
    """Train and evaluate until training is over; the state keeps the best and the last epoch."""
    prepared, state, roles = session.prepared, session.state, session.prepared.roles
    primary = prepared.dataset.primary

    def evaluate(epoch: int, step: int) -> None:
        if state.epochs and state.epochs[-1]["step"] == step:
            return  # an earlier session's, which ended before the next step
        if not training.finished and epoch % prepared.config.train.evaluate_every:
            return
        label = f"epoch {epoch}: {roles.selection}"
        answers = answers_of(session, roles.selection, ui, label)
        values = answers.scored.values
        here = Evaluated(epoch, step, values, training.adapter.tensors(), answers if roles.selected_on_report else None)
        state.epochs.append({"epoch": epoch, "step": step, "train_loss": None, "selection": values})
        if state.best is None or values[primary] > state.best.selection[primary]:
            state.best = here
        state.last = here
        logger.epoch(state.epochs[-1])
        ui.say(f"epoch {epoch}  {roles.selection}: {points(values, prepared.dataset.headline)}")
        if training.finished:
            state.trained = True
        session.milestone()

    def after_steps(rows: list[dict[str, float]]) -> None:
        for row in rows:
            logger.step(row)
        session.stepped(len(rows))

    logger.start(training.result.steps, state.epochs)
    try:
        training.fit(evaluate, ui, after_steps)
    except Diverged as error:
        ui.stop()
        state.diverged, state.last, state.trained = str(error), None, True
        state.answered.clear()
        session.milestone()


def _introduce(prepared: Prepared, ui: Display) -> None:
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
