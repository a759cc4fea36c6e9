"""One of several runs that train together: opened, evaluated and ended as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from ssm_tune.data.token_cache import TokenizedDataset
from ssm_tune.experiment.epochs import after_divergence, after_epoch, after_steps, report
from ssm_tune.experiment.evaluate import score_base_model
from ssm_tune.experiment.messages import out_of_memory, print_setup
from ssm_tune.experiment.metric_logger import MetricLogger
from ssm_tune.experiment.run import RunResult, logger_of, make_trainer, open_folder, resume
from ssm_tune.experiment.run_checkpointer import RunCheckpointer
from ssm_tune.experiment.run_folder import check_folder, delete_checkpoints
from ssm_tune.experiment.run_lock import Request, run_lock
from ssm_tune.experiment.setup import Experiment, check_same_checkpoint
from ssm_tune.experiment.signals import StopRequest
from ssm_tune.experiment.write_record import Trained, computation, finish, finished_record, record_path
from ssm_tune.methods.adapter import Adapter
from ssm_tune.training.recompute_plan import RecomputePlan
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Diverged, UserError
from ssm_tune.utils.phases import CLOCK, MemberClock
from ssm_tune.utils.progress import Display


class Member:
    """A run with its lock, checkpoints and logger. result: its record, or what ended it; None while it is under way.

    What fails in ``doing`` ends this member alone: its lock, failure and checkpoints say so, as a run's by itself.
    """

    def __init__(self, experiment: Experiment, request: Request | None, stop_request: StopRequest, ui: Display) -> None:
        self.experiment, self.request, self.ui = experiment, request, ui
        self.clock = MemberClock(CLOCK)
        self.checkpointer = RunCheckpointer(experiment, experiment.folder, stop_request, clock=self.clock)
        self.plan: RecomputePlan | None = None
        self.result: RunResult | BaseException | None = None
        self._trainer: Trainer | None = None
        self._logger: MetricLogger | None = None
        self._stack = ExitStack()

    @property
    def trainer(self) -> Trainer:
        assert self._trainer is not None
        return self._trainer

    @contextmanager
    def doing(self) -> Iterator[None]:
        """The block is this member's alone, and its time."""
        try:
            with self.clock.counting():
                yield
        except Exception as error:
            self.end(error)

    def end(self, error: BaseException) -> None:
        """The run is over, by an error."""
        if isinstance(error, torch.OutOfMemoryError):
            line = str(error).strip().splitlines()[0]
            error = UserError(out_of_memory(self.checkpointer, self.plan, line))
        self.ui.stop()
        self.result = error
        self._close(error)

    def open(self) -> None:
        """Lock the run, and resume it or find it done. Raises Locked, UserError."""
        experiment, checkpointer = self.experiment, self.checkpointer
        self._stack.enter_context(run_lock(experiment.folder, self.request))
        check_folder(experiment.folder)
        record = finished_record(experiment)
        if record is not None:
            delete_checkpoints(checkpointer.checkpoints, self.ui.say)
            self._done(RunResult(record_path(experiment), record, is_new=False))
            return
        check_same_checkpoint(experiment)
        print_setup(experiment, self.ui)
        resume(checkpointer, open_folder(checkpointer, self.ui), self.ui)
        self._logger = logger_of(checkpointer, self.ui)
        if experiment.config.frozen:
            score_base_model(checkpointer, self.ui)

    def attach(self, adapter: Adapter, sequences: TokenizedDataset) -> None:
        """Begin or resume training with this adapter."""
        self._trainer = make_trainer(self.experiment, adapter, sequences)
        self.checkpointer.attach_trainer(self._trainer)
        assert self._logger is not None
        self._logger.start(self._trainer.result.steps, self.checkpointer.state.epochs)

    @property
    def pauses(self) -> bool:
        """Whether something that is shown comes before the next step."""
        return self.checkpointer.state.trained or self.trainer.evaluation_due

    def between_steps(self, conclude: Callable[[Member], None]) -> None:
        """Stop if that is asked for, evaluate if it is time, and ``conclude`` where training is over."""
        trainer, state = self.trainer, self.checkpointer.state
        self.checkpointer.poll()
        if not state.trained and trainer.evaluation_due:
            try:
                with trainer.adapter.active():
                    trainer.evaluate_now(self._evaluate)
            except Diverged as error:
                self._diverged(error)
        if state.trained or trainer.finished:
            with trainer.adapter.active():
                conclude(self)

    def _evaluate(self, epoch: int, step: int) -> None:
        assert self._logger is not None
        after_epoch(self.checkpointer, self.trainer, epoch, step, self.ui, self._logger)

    def _diverged(self, error: Diverged) -> None:
        self.ui.stop()
        after_divergence(self.checkpointer, error)

    def after_gradients(self, seconds: float) -> None:
        """Do the rest of a step. seconds: its share of the time that the gradients took."""
        trainer = self.trainer
        trainer.finish_step()
        trainer.result.seconds += seconds
        try:
            rows = trainer.read_steps()
        except Diverged as error:
            self._diverged(error)
            return
        assert self._logger is not None
        after_steps(self.checkpointer, rows, self._logger)

    def conclude(self, base_parameters: int, members: int) -> None:
        """Make the final predictions and write the record. members: runs whose steps were computed together."""
        adapter, result = self.trainer.adapter, self.trainer.result
        self.checkpointer.state.add_train_losses(result.steps)
        report(self.checkpointer, adapter, self.ui)
        assert self.plan is not None
        how = computation(self.checkpointer, self.plan) | ({"members": members} if members > 1 else {})
        with CLOCK.phase("write"):
            record = finish(self.checkpointer, Trained(adapter, result, base_parameters, how), self.ui.say)
        self._done(RunResult(record_path(self.experiment), record, is_new=True))

    def _done(self, result: RunResult) -> None:
        self.result = result
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        """Give the lock back and end the logger, which both hear how the run ended."""
        if self._logger is not None:
            self._logger.finish(self.result.record if isinstance(self.result, RunResult) else None)
        self._stack.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
