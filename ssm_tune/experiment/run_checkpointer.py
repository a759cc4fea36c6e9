"""One process's part of a run: what the run has gathered, saved in time and when a signal asks to stop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from ssm_tune.experiment.setup import Prepared
from ssm_tune.experiment.signals import Interruption
from ssm_tune.experiment.state import Answers, Evaluated, State
from ssm_tune.generation.predict import Predictions
from ssm_tune.records.provenance import peak_memory_bytes
from ssm_tune.tasks.base import Scored
from ssm_tune.training.checkpoint import Checkpoint, Checkpoints
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup
from ssm_tune.training.recompute_plan import RecomputePlan
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Stopped

SHARE = 20
"""Checkpoints at intervals and epochs take at most one part in so many of the time."""
_PLAIN = ("frozen", "epochs", "seconds", "generated", "diverged", "trained", "sessions", "elapsed", "peak_memory")


class Session:
    """An ``answering.Watch``: saves ``state`` and ``training`` when it is time to, and ends the run when asked to.

    begun: when this process began with the cell, by time.perf_counter. world: the processes that have the same state;
    the leading one alone saves it.
    """

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        interruption: Interruption,
        begun: float,
        world: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.prepared, self.folder, self.interruption, self.world = prepared, folder, interruption, world
        self.checkpoints = Checkpoints(folder, {"cell": prepared.key, "device": prepared.backend["device"]})
        self.state = State()
        self.training: Trainer | None = None
        self.plan: RecomputePlan | None = None
        self._waiting: Checkpoint | None = None  # what the training that is yet to be made goes on from
        self._begun = begun
        self._phase: tuple[str, float] | None = None
        self._units, self._written, self._cost = 0, time.monotonic(), 0.0

    def resume(self, checkpoint: Checkpoint) -> str:
        """Go on from a checkpoint; a line that says from where."""
        self.state = _state(checkpoint)
        self.state.sessions += 1
        self._begun -= self.state.elapsed
        self._waiting = checkpoint
        return f"resuming this cell ({self.where()})"

    def adopt(self, training: Trainer) -> None:
        """Take the run's training under watch, where it was left if it had begun."""
        if self._waiting is not None and "training" in self._waiting.values:
            parts = ("parameters/", "optimizer/")
            tensors = {name: value for name, value in self._waiting.tensors.items() if name.startswith(parts)}
            training.load(self._waiting.values["training"], tensors)
        self.training, self._waiting = training, None

    def poll(self) -> None:
        """Raise Stopped, with the state saved, if a signal has asked for it."""
        self._stop(self.world.stop_requested(self.interruption.signal))

    def tick(self) -> None:
        """An evaluation's batch is done: save if it is time."""
        self.poll()
        self._count(1)

    def stepped(self, steps: int) -> None:
        """So many training steps are done, in every process: save if it is time."""
        self._stop(self.world.stop_agreed(self.interruption.signal))
        self._count(steps)

    def _stop(self, signal: int | None) -> None:
        if signal is not None:
            self.save()
            raise Stopped(f"stopped, and saved ({self.where()}): the same command goes on from there", signal)

    def _count(self, units: int) -> None:
        self._units += units
        wanted = self.prepared.config.checkpoint
        due = time.monotonic() - self._written >= max(60 * wanted.minutes, SHARE * self._cost)
        if due or (wanted.steps is not None and self._units >= wanted.steps):
            self.save()

    def milestone(self) -> None:
        """An evaluation or the whole training is done, in every process: save, unless that would take too large a share
        of the time."""
        self._stop(self.world.stop_agreed(self.interruption.signal))
        if time.monotonic() - self._written >= SHARE * self._cost:
            self.save()

    def save(self) -> None:
        """Write a checkpoint. Raises UserError where it cannot be written."""
        self._settle()
        if not self.world.is_rank_zero:
            return
        before = time.monotonic()
        self.state.elapsed = self.elapsed()
        self.state.peak_memory = self.peak_memory()
        self.checkpoints.save(self._checkpoint())
        self._written = time.monotonic()
        self._cost = self._written - before
        self._units = 0
        if self._phase is not None:  # what was just spent is not the phase's
            self._phase = (self._phase[0], time.perf_counter())

    def how(self) -> dict[str, Any]:
        """How the cell is trained here: what changes its numbers by rounding at most."""
        train = self.prepared.config.train
        return {
            "processes": self.world.size, "micro_batch": train.micro_batch, "deterministic": train.deterministic,
            "recomputed_blocks": 0 if self.plan is None else self.plan.recompute.whole,
            "partly_recomputed_blocks": 0 if self.plan is None else self.plan.recompute.partly,
        }  # fmt: skip

    def elapsed(self) -> float:
        """Seconds that the run has taken so far, in all its sessions."""
        return time.perf_counter() - self._begun

    def peak_memory(self) -> int | None:
        """As ``provenance.peak_memory_bytes`` has it, over all sessions."""
        here = peak_memory_bytes(self.prepared.model.device)
        known = [one for one in (here, self.state.peak_memory) if one is not None]
        return max(known, default=None)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time inside to the state's seconds of a phase."""
        self._phase = (phase, time.perf_counter())
        try:
            yield
        finally:
            self._settle()
            self._phase = None

    def where(self) -> str:
        """How far the run is, in words."""
        parts = []
        if self.state.trained:
            parts.append("training done")
        elif (step := self._step()) is not None:
            parts.append(f"step {step}")
        parts += [f"{label}: {len(one.texts)} answered" for label, one in self.state.answered.items()]
        return ", ".join(parts) or "before the first step"

    def _step(self) -> int | None:
        if self.training is not None:
            return self.training.position.step
        waiting = self._waiting.values.get("training") if self._waiting else None
        return waiting["position"]["step"] if waiting else None

    def _settle(self) -> None:
        if self._phase is not None:
            name, since = self._phase
            now = time.perf_counter()
            self.state.seconds[name] = (self.state.seconds[name] or 0.0) + now - since
            self._phase = (name, now)

    def _checkpoint(self) -> Checkpoint:
        values, tensors = _packed(self.state)
        if self.training is not None:
            values["training"] = self.training.state()
            if not self.state.trained:
                tensors |= self.training.tensors()
        elif self._waiting is not None and "training" in self._waiting.values:
            values["training"] = self._waiting.values["training"]
            tensors = self._waiting.tensors | tensors
        return Checkpoint(values, tensors)


def _packed(state: State) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state as JSON values and tensors. While training lasts, the last evaluation is not worth keeping."""
    values: dict[str, Any] = {name: getattr(state, name) for name in _PLAIN}
    values["started"] = state.started.isoformat()
    values["answered"] = {
        label: {"outputs": list(one.texts.items()), "tokens": one.tokens} for label, one in state.answered.items()
    }
    values["last_is_best"] = state.last is state.best
    tensors: dict[str, Tensor] = {}
    kept = {"best": state.best}
    if state.trained and state.last is not state.best:
        kept["last"] = state.last
    for which, evaluated in kept.items():
        values[which] = None
        if evaluated is not None:
            plain = {field.name: getattr(evaluated, field.name) for field in dataclasses.fields(evaluated)}
            tensors |= {f"{which}/{name}": tensor for name, tensor in plain.pop("tensors").items()}
            values[which] = plain | {"report": evaluated.report and dataclasses.asdict(evaluated.report)}
    return values, tensors


def _state(checkpoint: Checkpoint) -> State:
    """What ``_packed`` has packed."""
    values = checkpoint.values
    state = State(started=datetime.fromisoformat(values["started"]), **{name: values[name] for name in _PLAIN})
    for label, one in values["answered"].items():
        state.answered[label] = Predictions(dict(one["outputs"]), one["tokens"])
    state.best = _evaluated(checkpoint, "best")
    state.last = state.best if values["last_is_best"] else _evaluated(checkpoint, "last")
    return state


def _evaluated(checkpoint: Checkpoint, which: str) -> Evaluated | None:
    plain = checkpoint.values.get(which)
    if plain is None:
        return None
    mark = f"{which}/"
    tensors = {name.removeprefix(mark): t for name, t in checkpoint.tensors.items() if name.startswith(mark)}
    report = plain.pop("report")
    answers = report and Answers(report["outputs"], Scored(**report["scored"]))
    return Evaluated(**plain, tensors=tensors, report=answers)
