"""One run, from its configuration to its record; read it from top to bottom."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from ssm_tune.config.schema import Config
from ssm_tune.data.token_cache import TokenizedDataset, tokenized_training_set
from ssm_tune.experiment.epochs import after_divergence, after_epoch, after_steps, report
from ssm_tune.experiment.evaluate import score_base_model
from ssm_tune.experiment.load_data import LoadedData
from ssm_tune.experiment.memory_plan import plan_memory, uses_cuda_graphs
from ssm_tune.experiment.messages import out_of_memory, print_plan, print_setup
from ssm_tune.experiment.metric_logger import MetricLogger, make_logger, require_wandb
from ssm_tune.experiment.run_checkpointer import RunCheckpointer
from ssm_tune.experiment.run_folder import check_folder, clear_folder, delete_checkpoints
from ssm_tune.experiment.run_lock import Request, run_lock
from ssm_tune.experiment.setup import Experiment, build_experiment, check_same_checkpoint
from ssm_tune.experiment.shared import Shared
from ssm_tune.experiment.shared_model import keep_weights
from ssm_tune.experiment.signals import note_signals
from ssm_tune.experiment.write_record import (
    Trained,
    computation,
    count_parameters,
    finish,
    finished_record,
    record_path,
)
from ssm_tune.methods.adapter import Adapter, attach
from ssm_tune.models.threads import cpu_threads
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.records.provenance import reset_peak_memory
from ssm_tune.records.record import Record
from ssm_tune.records.trial import Trial
from ssm_tune.training.checkpoint import Checkpoint
from ssm_tune.training.determinism import fix_cublas_workspace
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup, process_group
from ssm_tune.training.recompute_plan import RecomputePlan
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Diverged, Stopped, UserError
from ssm_tune.utils.phases import CLOCK
from ssm_tune.utils.progress import Display, Silent, progress
from ssm_tune.utils.without_compiler import leave_out_compiler


@dataclass(frozen=True)
class RunResult:
    """path: of record.json, of a trial of trial.json. is_new: whether this call did the run."""

    path: Path
    record: Record | Trial
    is_new: bool


def run(
    config: Config, data: LoadedData | None = None, request: Request | None = None, shared: Shared | None = None
) -> RunResult:
    """Do the run that ``config`` describes, unless its record exists; resume it where it was stopped.

    data: loaded before, if they are. request: how lock files name the run. shared: what this process keeps for its next
    run.

    Raises UserError for whatever the user can fix; nothing that looks complete is left then. Raises Stopped where a
    signal asked for it, with the state saved.
    """
    leave_out_compiler()
    # states that decay to nothing become denormal numbers, with which a CPU is slower than with zeros
    torch.set_flush_denormal(True)
    try:
        if config.train.deterministic and config.device != "cpu":
            fix_cublas_workspace()
        with CLOCK.one_run(), CLOCK.phase("model"), process_group(config.device) as group:
            reset_peak_memory()
            if config.logger == "wandb":
                require_wandb()  # before the model: a missing package is quickly reported
            experiment = build_experiment(config, data, shared)
            with cpu_threads(experiment.model):
                return _run_in_group(experiment, request, group)
    finally:
        torch.set_flush_denormal(False)  # a setting of the processor, which others use as well


def _run_in_group(experiment: Experiment, request: Request | None, group: ProcessGroup) -> RunResult:
    ui = progress() if group.is_rank_zero else Silent()
    if any(key != experiment.key for key in group.all_gather(experiment.key)):
        raise UserError("the processes do not do the same run: their data or models differ")
    folder = experiment.folder
    lock = run_lock(folder, request) if group.is_rank_zero else nullcontext()
    with lock, group.propagate_failures(), note_signals() as stop_request:
        checkpointer = RunCheckpointer(experiment, folder, stop_request, group)
        if group.is_rank_zero:
            check_folder(folder)
        record = group.broadcast(finished_record(experiment) if group.is_rank_zero else None)
        if record is not None:
            if group.is_rank_zero:
                delete_checkpoints(checkpointer.checkpoints, ui.say)  # of a run that was killed after its record
            return RunResult(record_path(experiment), record, is_new=False)
        if group.is_rank_zero:
            check_same_checkpoint(experiment)
        print_setup(experiment, ui)
        checkpoint = group.broadcast(open_folder(checkpointer, ui) if group.is_rank_zero else None)
        resume(checkpointer, checkpoint, ui)
        result = _logged_run(checkpointer, ui)
        if stop_request.signal is not None:  # too late for this run, but others may follow
            raise Stopped(f"stopped; this run is done, record: {result.path}", stop_request.signal)
        return result


def open_folder(checkpointer: RunCheckpointer, ui: Display) -> Checkpoint | None:
    """The checkpoint to resume from, if there is one; what else an earlier session left is deleted."""
    if checkpointer.experiment.config.force or record_path(checkpointer.experiment).exists():
        checkpointer.checkpoints.delete()
    checkpoint = checkpointer.checkpoints.load_newest(ui.say)
    clear_folder(checkpointer.folder, keep_base_predictions=checkpoint is not None)
    return checkpoint


def resume(checkpointer: RunCheckpointer, checkpoint: Checkpoint | None, ui: Display) -> None:
    """Continue from a checkpoint, if there is one."""
    if checkpoint is not None:
        checkpointer.resume(checkpoint)
        ui.say(f"resuming this run ({checkpointer.progress()})")


def _logged_run(checkpointer: RunCheckpointer, ui: Display) -> RunResult:
    """``_train_and_report`` with a metric logger, which hears how the run ended in any case."""
    logger = logger_of(checkpointer, ui)
    result: RunResult | None = None
    try:
        result = _train_and_report(checkpointer, ui, logger)
        return result
    finally:
        ui.stop()
        logger.finish(result.record if result else None)


def logger_of(checkpointer: RunCheckpointer, ui: Display) -> MetricLogger:
    """Where the run's rows go, of rank 0 alone."""
    experiment, config = checkpointer.experiment, checkpointer.experiment.config
    about = experiment.cell | {"train": dataclasses.asdict(experiment.train), "backend": experiment.backend}
    kind = config.logger if checkpointer.group.is_rank_zero else "none"
    return make_logger(kind, Path(config.output_dir), experiment.key, checkpointer.folder.name, about, ui.say)


def _train_and_report(checkpointer: RunCheckpointer, ui: Display, logger: MetricLogger) -> RunResult:
    experiment, state, group = checkpointer.experiment, checkpointer.state, checkpointer.group
    # before anything slow: a text that cannot be tokenized ends the run
    examples = experiment.dataset.splits[experiment.roles.train]
    with CLOCK.phase("data"):
        task, tokenizer = experiment.task, experiment.tokenizer
        sequences = experiment.once("tokens", lambda: tokenized_training_set(examples, task, tokenizer))
    plan: RecomputePlan | None = None
    try:
        plan = plan_memory(experiment, sequences, group)
        print_plan(plan, ui)
        if experiment.config.frozen:
            score_base_model(checkpointer, ui)

        base_parameters = count_parameters(experiment.model)
        adapter = attach(
            experiment.model, experiment.method, seed=experiment.config.seed, dtype=experiment.adapter_dtype
        )
        keep_weights(adapter, experiment.shared)
        total = count_parameters(experiment.model)
        ui.say(f"{experiment.method.name} trains {adapter.trainable:,} of {total:,} parameters")
        plan.apply(experiment.model)
        trainer = make_trainer(experiment, adapter, sequences, group)
        checkpointer.attach_trainer(trainer)
        if not state.trained:
            with CLOCK.phase("train"):
                _fit(checkpointer, trainer, ui, logger)
        state.add_train_losses(trainer.result.steps)
        report(checkpointer, adapter, ui)
    except torch.OutOfMemoryError as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(out_of_memory(checkpointer, plan, first_line)) from error

    trained = Trained(adapter, trainer.result, base_parameters, computation(checkpointer, plan))
    with CLOCK.phase("write"):
        record = group.broadcast(finish(checkpointer, trained, ui.say) if group.is_rank_zero else None)
    assert record is not None
    return RunResult(record_path(experiment), record, is_new=True)


def make_trainer(
    experiment: Experiment, adapter: Adapter, sequences: TokenizedDataset, group: ProcessGroup = SINGLE_PROCESS
) -> Trainer:
    """The run's trainer, at its first step."""
    settings = experiment.config.train
    return Trainer(
        adapter,
        sequences,
        experiment.train,
        experiment.tokenizer.eos_id,
        CudaCapture(experiment.model.device) if uses_cuda_graphs(experiment) else None,
        settings.micro_batch,
        group,
        deterministic=settings.deterministic,
    )


def _fit(checkpointer: RunCheckpointer, trainer: Trainer, ui: Display, logger: MetricLogger) -> None:
    """Train, with evaluations, until training is over; the state keeps the best and the last epoch."""
    logger.start(trainer.result.steps, checkpointer.state.epochs)
    try:
        trainer.fit(
            lambda epoch, step: after_epoch(checkpointer, trainer, epoch, step, ui, logger),
            ui,
            lambda rows: after_steps(checkpointer, rows, logger),
        )
    except Diverged as error:
        ui.stop()
        after_divergence(checkpointer, error)
