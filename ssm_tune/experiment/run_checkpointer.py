"""Saves a run's state in time, and ends the run when a signal has asked for it."""

from __future__ import annotations

import time
from pathlib import Path

from ssm_tune.experiment.setup import Experiment
from ssm_tune.experiment.signals import StopRequest
from ssm_tune.experiment.state import RunState, pack, unpack
from ssm_tune.records.provenance import peak_memory_bytes
from ssm_tune.training.checkpoint import Checkpoint, Checkpoints
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Stopped
from ssm_tune.utils.phases import CLOCK, MemberClock, PhaseClock

SHARE = 20
"""Checkpoints at intervals and after epochs take at most one part in so many of the time."""


class RunCheckpointer:
    """Holds a run's ``state`` and, once it is attached, its trainer, and saves both.

    Evaluations call ``poll`` and ``on_batch_end``, training ``on_step_end``, and the run ``maybe_save`` where a part of
    it is done. group: the processes that have the same state, of which rank 0 alone saves it. clock: the run's time.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        stop_request: StopRequest,
        group: ProcessGroup = SINGLE_PROCESS,
        clock: PhaseClock | MemberClock = CLOCK,
    ) -> None:
        self.clock = clock
        self.experiment, self.folder, self.stop_request, self.group = experiment, folder, stop_request, group
        identity = {"cell": experiment.key, "device": experiment.backend["device"]}
        self.checkpoints = Checkpoints(folder, identity)
        self.state = RunState()
        self.trainer: Trainer | None = None
        self._pending: Checkpoint | None = None  # resumed from by the trainer, once it is attached
        self._earlier: dict[str, float | None] = {}  # seconds of the sessions before this one
        self._earlier_total = 0.0
        self._units = 0  # steps and batches since the last checkpoint
        self._saved = time.monotonic()
        self._cost = 0.0  # seconds that the last checkpoint took

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint; the trainer does when it is attached."""
        self.state = unpack(checkpoint)
        self.state.sessions += 1
        self._earlier, self._earlier_total = self.state.seconds, self.state.elapsed
        self._pending = checkpoint

    def attach_trainer(self, trainer: Trainer) -> None:
        """Save the trainer's state from now on, after loading what the checkpoint has of it."""
        if self._pending is not None and "training" in self._pending.values:
            parts = ("parameters/", "optimizer/")
            tensors = {name: value for name, value in self._pending.tensors.items() if name.startswith(parts)}
            trainer.load(self._pending.values["training"], tensors)
        self.trainer, self._pending = trainer, None

    def poll(self) -> None:
        """Save and raise Stopped if a signal has asked for it."""
        self._stop(self.group.stop_requested(self.stop_request.signal))

    def on_batch_end(self) -> None:
        """After an evaluation's batch: save if it is time."""
        self.poll()
        self._count(1)

    def on_step_end(self, steps: int) -> None:
        """After so many training steps, in every process: save if it is time."""
        self._stop(self.group.stop_agreed(self.stop_request.signal))
        self._count(steps)

    def maybe_save(self) -> None:
        """After an evaluation or the whole training, in every process: save, unless that takes too much time."""
        self._stop(self.group.stop_agreed(self.stop_request.signal))
        if time.monotonic() - self._saved >= SHARE * self._cost:
            self.save()

    def _stop(self, signal: int | None) -> None:
        if signal is not None:
            self.save()
            raise Stopped(f"stopped, and saved ({self.progress()}): the same command resumes from there", signal)

    def _count(self, units: int) -> None:
        self._units += units
        settings = self.experiment.config.checkpoint
        due = time.monotonic() - self._saved >= max(60 * settings.minutes, SHARE * self._cost)
        if due or (settings.steps is not None and self._units >= settings.steps):
            self.save()

    def save(self) -> None:
        """Write a checkpoint. Raises UserError where it cannot be written."""
        if not self.group.is_rank_zero:
            return
        before = time.monotonic()
        with CLOCK.phase("write"):
            self.note_costs()
            self.checkpoints.save(self._checkpoint())
        self._saved = time.monotonic()
        self._cost = self._saved - before
        self._units = 0

    def _checkpoint(self) -> Checkpoint:
        checkpoint = pack(self.state)
        if self.trainer is not None:
            checkpoint.values["training"] = self.trainer.state()
            if not self.state.trained:
                checkpoint.tensors |= self.trainer.tensors()
        elif self._pending is not None and "training" in self._pending.values:
            checkpoint.values["training"] = self._pending.values["training"]
            checkpoint.tensors = self._pending.tensors | checkpoint.tensors
        return checkpoint

    def note_costs(self) -> None:
        """Write into the state what the run has taken so far, in all its sessions: seconds, and memory at its peak."""
        state, here = self.state, self.clock.read()
        state.seconds = self._earlier | {name: (self._earlier.get(name) or 0.0) + one for name, one in here.items()}
        state.elapsed = self._earlier_total + sum(here.values())
        peaks = (peak_memory_bytes(self.experiment.model.device), state.peak_memory)
        state.peak_memory = max((one for one in peaks if one is not None), default=None)

    def progress(self) -> str:
        """How far the run is, in words."""
        parts = []
        if self.state.trained:
            parts.append("training done")
        elif (step := self._step()) is not None:
            parts.append(f"step {step}")
        parts += [f"{label}: {len(one.texts)} predictions" for label, one in self.state.predicting.items()]
        return ", ".join(parts) or "before the first step"

    def _step(self) -> int | None:
        if self.trainer is not None:
            return self.trainer.position.step
        pending = self._pending.values.get("training") if self._pending else None
        return pending["position"]["step"] if pending else None
