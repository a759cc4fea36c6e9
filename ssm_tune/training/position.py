"""Where a training stands, what comes next, and what it has given so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from ssm_tune.data.collator import epoch_batches
from ssm_tune.data.tokenization import TokenizedExample


@dataclass
class TrainResult:
    """What training has given so far.

    steps: one row for each optimizer step, as steps.jsonl keeps it. tokens: trained on. seconds: without the
    evaluations between epochs. stopped: why training ended before its last step, if it did.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    stopped: str | None = None


@dataclass
class Position:
    """Where training stands.

    step: optimizer steps done. epoch: the current pass over the examples, from 0. batch: batches of it that are done.
    saturated: steps in a row whose loss is at or below ``trainer.SATURATED_LOSS``.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    saturated: int = 0


@dataclass(frozen=True)
class Schedule:
    """What happens at which step. warmup: steps of a method's warm-up (warmup.py); training: those after it."""

    warmup: int
    training: int
    steps_per_epoch: int

    @property
    def last(self) -> int:
        return self.warmup + self.training

    def of_stage(self, step: int) -> int:
        """Steps of the current stage that are done after ``step`` in all: of the warm-up, or of the training."""
        return step if step < self.warmup else step - self.warmup

    def until_pause(self, step: int) -> int:
        """Steps until one after which something else comes: the warm-up's last, an evaluation, or the end."""
        if step < self.warmup:
            return self.warmup - step
        return min(self.last - step, self.steps_per_epoch - (step - self.warmup) % self.steps_per_epoch)

    def evaluated_after(self, step: int) -> bool:
        """Whether the step ends an epoch of the training."""
        return step > self.warmup and (step - self.warmup) % self.steps_per_epoch == 0

    def epochs(self, step: int) -> int:
        """Epochs of the training that the step ends, or is in."""
        return math.ceil((step - self.warmup) / self.steps_per_epoch)


class BatchOrder:
    """Which examples each batch has. An epoch's incomplete last batch is dropped."""

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self._epoch: tuple[int, list[list[int]]] | None = None

    def next(self, position: Position) -> list[int]:
        """Numbers of the next batch's examples; the position moves on by a batch."""
        if position.batch == self.examples // self.batch_size:
            position.epoch, position.batch = position.epoch + 1, 0
        if self._epoch is None or self._epoch[0] != position.epoch:
            self._epoch = position.epoch, epoch_batches(self.examples, self.batch_size, self.seed, position.epoch)
        position.batch += 1
        return self._epoch[1][position.batch - 1]


class StepExamples(NamedTuple):
    """A step's examples, and their keys for dropout."""

    sequences: list[TokenizedExample]
    keys: list[int]
