"""Where a training stands, and what it has given so far."""

from __future__ import annotations

from dataclasses import dataclass, field


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
