"""Training of one cell. Knows the base protocols alone: no task or method by name."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssm_tune.data.collator import Batch, batch_extent, collate, epoch_order, length_bucket
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.methods.base import Adapter
from ssm_tune.ops.cuda.graph import Capture
from ssm_tune.ops.keyed_dropout import row_key
from ssm_tune.training.determinism import same_bits
from ssm_tune.training.distributed import ALONE, World, parts_of
from ssm_tune.training.graphed_step import Graphs, Shape
from ssm_tune.training.sanity_checks import STEPS, TrainingGate, divergence
from ssm_tune.training.settings import TrainSettings, total_steps
from ssm_tune.training.train_step import Step, short
from ssm_tune.utils.errors import Diverged
from ssm_tune.utils.progress import Progress

BLOCK = 16
"""Captured steps at most between two reads of what they found: each read leaves the GPU idle for a moment."""
SATURATED_LOSS, SATURATED_STEPS = 1e-6, 10
"""The official code stops training when the loss stays this low for this long."""


@dataclass
class Trained:
    """What training tells afterwards. steps: a row an optimizer step, as steps.jsonl keeps it."""

    steps: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    """without the evaluations between epochs"""
    stopped: str | None = None
    """why training ended before its last step, if it did"""


@dataclass
class Position:
    """Where training stands. step: optimizer steps done; epoch: the pass over the examples under way, from 0; batch:
    batches of it that are done; saturated: steps in a row whose loss is at or below ``SATURATED_LOSS``."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    saturated: int = 0


class Training:
    """Training under way: all that the next step depends on, and what it tells afterwards.

    pad: the token that fills batches. capture: of whole steps, whose batches are padded to a few lengths then, and
    which are read in blocks; None: each step is launched as it is, and read. micro_batch: examples that are computed at
    a time, None: all that this process has of a batch. world: the processes that share each batch. What is trained is
    the same whatever these three are, within rounding. The training gate compares with the parameters as they are here,
    so ``restore`` comes after. deterministic: refuse operations that may add in another order the next time.
    """

    def __init__(
        self, adapter: Adapter, sequences: Sequence[TokenizedExample], settings: TrainSettings, pad: int,
        capture: Capture | None = None, micro_batch: int | None = None, world: World = ALONE,
        deterministic: bool = False,
    ) -> None:  # fmt: skip
        self.adapter, self.sequences, self.settings, self.pad = adapter, sequences, settings, pad
        self.per_epoch, self.last = total_steps(len(sequences), settings)
        self.block = 1 if capture is None else BLOCK
        self.parts = parts_of(settings.batch_size, micro_batch, world)
        self.step = Step(
            adapter.model, list(adapter.parameters.values()), settings.max_grad_norm, BLOCK,
            capture is not None, settings.betas, settings.eps, settings.weight_decay, len(self.parts), world,
        )  # fmt: skip
        self.graphs = None if capture is None else Graphs(self.step, capture)
        self.deterministic = deterministic
        self.computing: Shape | None = None
        """While steps are under way: the largest shape that is computed at a time"""
        self.position, self.trained = Position(), Trained()
        self.gate: TrainingGate | None = TrainingGate(adapter)
        self._order: tuple[int, list[int]] | None = None
        self._unread: list[tuple[Position, float, int]] = []  # of each step: where it stood, its rate, its tokens

    @property
    def finished(self) -> bool:
        return self.position.step == self.last or self.trained.stopped is not None

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation belongs between the last step and the next."""
        return self.position.step > 0 and (self.position.step % self.per_epoch == 0 or self.finished)

    def advance(self) -> list[dict[str, float]]:
        """Take the steps up to the next read of what they found; their rows, which ``trained.steps`` has too.

        One step where they are launched as they are. Where they are captured a block, which ends where something may
        have to happen behind a step: an evaluation, the end, a stop because of saturation. Steps behind one that
        diverged leave no trace.

        Raises:
            Diverged: a loss is not finite, or the mean over WINDOW steps is twice that of a uniform guess and of the
                start.
            UserError: a declared parameter does not train, or a frozen one does (the training gate).
        """
        running = self.graphs.capture.running() if self.graphs is not None else nullcontext()
        with running, same_bits() if self.deterministic else nullcontext():
            for slot in range(self._steps_to_read()):
                self._take(slot)
            rows = self._read()
        self.computing = None
        if self.gate is not None and self.position.step == min(STEPS, self.last):
            self.gate.finish(self.position.step)
            self.gate = None
        return rows

    def _steps_to_read(self) -> int:
        step = self.position.step
        if self.gate is not None:
            return 1
        until = [self.block, self.last - step, self.per_epoch - step % self.per_epoch]
        if self.settings.stop_when_saturated:
            until.append(SATURATED_STEPS - self.position.saturated)
        return min(until)

    def _take(self, slot: int) -> None:
        """Ask the device for the next step, the block's number ``slot``."""
        settings, position, step, device = self.settings, self.position, self.step, self.adapter.model.device
        numbers = self._next_batch()
        sequences = [self.sequences[i] for i in numbers]
        # linear decay without warm-up: step k (from 0) of T takes (1 - k/T) of the rate
        rate = settings.learning_rate * (1 - position.step / self.last)
        step.prepare(rate, slot)
        position.step += 1
        keys = [row_key(settings.seed, position.step, number) for number in numbers]
        parts = [self._part(sequences, keys, rows) for rows in self.parts]
        self.computing = max((part.shape for part in parts), key=lambda shape: shape[0] * shape[1])
        if self.gate is not None:
            step.gradients([part.to(device) for part in parts])
            if math.isfinite(step.loss):
                self.gate.after_backward(position.step)
            step.update()
        elif self.graphs is not None:
            self.graphs.run(parts)
        else:
            step([part.to(device) for part in parts])
        self._unread.append((dataclasses.replace(position), rate, sum(len(one.tokens) - 1 for one in sequences)))

    def _part(self, sequences: list[TokenizedExample], keys: list[int], rows: slice) -> Batch:
        """Some rows of a batch, as a batch of their own on the CPU."""
        extents = (
            length_bucket(*batch_extent(sequences[rows])) if self.graphs is not None else batch_extent(sequences[rows])
        )
        return collate(
            sequences[rows], self.pad, *extents, keys=keys[rows],
            label_count=sum(sequence.labels for sequence in sequences),
            pinned=self.graphs is not None and self.adapter.model.device.type == "cuda",
        )  # fmt: skip

    def _read(self) -> list[dict[str, float]]:
        trained, unread = self.trained, self._unread
        self._unread, first = [], len(trained.steps)
        saturated = self.position.saturated
        for (position, rate, tokens), (loss, norm) in zip(unread, self.step.read(len(unread)), strict=True):
            self.position = position
            row: dict[str, float] = {
                "step": position.step, "epoch": position.epoch + 1, "loss": loss, "learning_rate": short(rate),
                "grad_norm": norm, "tokens": tokens,
            }  # fmt: skip
            trained.tokens += tokens
            trained.steps.append(row)
            if reason := divergence(trained.steps, self.adapter.model.config.vocab_size):
                raise Diverged(reason)
            saturated = saturated + 1 if loss <= SATURATED_LOSS else 0
            position.saturated = saturated
        if self.settings.stop_when_saturated and saturated >= SATURATED_STEPS:  # blocks end where this may happen
            where = f"for {SATURATED_STEPS} steps, at step {self.position.step}"
            trained.stopped = f"loss at or below {SATURATED_LOSS} {where}"
        return trained.steps[first:]

    def _next_batch(self) -> list[int]:
        """Numbers of the examples that the next step reads; moves on. An epoch's incomplete last batch is dropped."""
        position, size = self.position, self.settings.batch_size
        if position.batch == len(self.sequences) // size:
            position.epoch, position.batch = position.epoch + 1, 0
        if self._order is None or self._order[0] != position.epoch:
            self._order = position.epoch, epoch_order(len(self.sequences), self.settings.seed, position.epoch)
        start = position.batch * size
        position.batch += 1
        return self._order[1][start : start + size]

    def progress(self) -> dict[str, Any]:
        """How far training is, as JSON holds it (losses may be no numbers)."""
        return {"position": dataclasses.asdict(self.position), **dataclasses.asdict(self.trained)}

    def tensors(self) -> dict[str, Tensor]:
        """What the next step depends on beside ``progress``: the live parameters and the optimizer's moments."""
        found: dict[str, Tensor] = {f"parameters/{name}": value for name, value in self.adapter.parameters.items()}
        for name, parameter in self.adapter.parameters.items():
            for key, value in self.step.optimizer.state.get(parameter, {}).items():
                found[f"optimizer/{name}/{key}"] = value
        return found

    def restore(self, progress: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from what ``progress`` and ``tensors`` gave; without tensors, where training is over."""
        values = dict(progress)
        self.position = Position(**values.pop("position"))
        self.trained = Trained(**values)
        if self.position.step >= min(STEPS, self.last):
            self.gate = None
        if not tensors:
            return
        parts: dict[str, dict[str, Tensor]] = {"parameters": {}, "optimizer": {}}
        for path, tensor in tensors.items():
            part, name = path.split("/", 1)
            parts[part][name] = tensor
        if self.graphs is not None:  # the optimizer's state moves to other memory
            self.graphs.forget()
        self.adapter.load_tensors(parts["parameters"], "the checkpoint")
        moments: dict[int, dict[str, Tensor]] = {}
        places = {name: at for at, name in enumerate(self.adapter.parameters)}
        for path, tensor in parts["optimizer"].items():
            name, key = path.rsplit("/", 1)
            moments.setdefault(places[name], {})[key] = tensor
        self.step.optimizer.load_state_dict({**self.step.optimizer.state_dict(), "state": moments})


def train(
    training: Training,
    evaluate: Callable[[int, int], None],
    progress: Progress,
    after_steps: Callable[[list[dict[str, float]]], None] = lambda rows: None,
) -> None:
    """Take the steps that are left.

    ``after_steps`` is called with the rows of those that were read together, when all of their effects are in
    ``training`` (it is not called for these where one of them diverges);
    ``evaluate(epoch, step)`` after each epoch and at the end, and first of all where training goes on from such a
    place. Raises what they and ``Training.advance`` raise.
    """
    model, trained, shown = training.adapter.model, training.trained, False
    while True:
        step = training.position.step
        if training.evaluates:
            if shown:
                progress.stop()
            shown = False
            if training.finished and training.graphs is not None:
                training.graphs.forget()  # their memory is the evaluation's now
            evaluate(math.ceil(step / training.per_epoch), step)
        if training.finished:
            return
        if not shown:
            progress.start("training", training.last, done=step)
            model.train()
            shown = True
        begun = time.perf_counter()
        try:
            rows = training.advance()
        except Diverged:
            if training.graphs is not None:
                training.graphs.forget()
            raise
        finally:
            trained.seconds += time.perf_counter() - begun
        pace = f"{trained.tokens / trained.seconds:,.0f} tokens/s"
        progress.advance(len(rows), f"loss {rows[-1]['loss']:.3f}  lr {rows[-1]['learning_rate']:.1e}  {pace}")
        after_steps(rows)
