"""Runs one after another in a worker process, which a new one follows where it dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import FrameType

from ssm_tune.experiment.signals import hear_signals
from ssm_tune.sweeps.one_run import Outcome
from ssm_tune.sweeps.worker_process import WorkerProcess


class InARow:
    """Inside its block, signals that ask to stop are passed on to the worker.

    stopped: the number of the last one, 0 while there was none. on_death: called with a run and with how its process
    died, unless it was to stop.
    """

    def __init__(self, on_death: Callable[[Sequence[str], str], None]) -> None:
        self.stopped, self.on_death = 0, on_death
        self._worker, self._stack = WorkerProcess(), ExitStack()

    def __enter__(self) -> InARow:
        self._stack.enter_context(hear_signals(self._pass_on))
        self._stack.callback(self._worker.end)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run_together(self, runs: Sequence[Sequence[str]], together: int | None) -> list[Outcome]:
        """The outcomes of runs that train together. Where their process dies, each is resumed by itself."""
        if self.stopped:
            return [self.not_begun()] * len(runs)
        self._worker.give(runs[0], None, runs[1:], together)
        outcome = self._worker.outcome()
        assert outcome is not None
        if self._worker.died:
            return [self.run(run) for run in runs]
        return [outcome, *self._worker.others]

    def run(self, overrides: Sequence[str]) -> Outcome:
        """The outcome of one run."""
        if self.stopped:
            return self.not_begun()
        self._worker.give(overrides)
        outcome = self._worker.outcome()
        assert outcome is not None
        if self._worker.died:
            if self.stopped:
                return self.not_begun()
            self.on_death(overrides, outcome.line)
        return outcome

    def not_begun(self) -> Outcome:
        """The outcome of a run that a signal came before."""
        return Outcome("stopped", "stopped before it had begun", exit=128 + self.stopped)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.stopped = number
        self._worker.signal(number)
