"""What a run gathers on its way, and how a checkpoint holds it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from ssm_tune.generation.predict import Outputs, Predictions
from ssm_tune.tasks.base import Scored
from ssm_tune.training.checkpoint import Checkpoint

_IN_CHECKPOINTS = {
    "base_model": "frozen",
    "epochs": "epochs",
    "seconds": "seconds",
    "generated": "generated",
    "diverged": "diverged",
    "trained": "trained",
    "sessions": "sessions",
    "elapsed": "elapsed",
    "peak_memory": "peak_memory",
}
"""Fields of ``RunState`` that JSON holds as they are, and their keys in a checkpoint."""


@dataclass(frozen=True)
class ScoredPredictions:
    """A model's outputs on a split, one for each example, and their scores."""

    outputs: Outputs
    scored: Scored


@dataclass
class EpochResult:
    """The adapter after an epoch: its scores on the selection split, its tensors, and its predictions on the report
    split once they are made."""

    epoch: int
    step: int
    selection: dict[str, float]
    tensors: dict[str, Tensor]
    report: ScoredPredictions | None = None


@dataclass
class RunState:
    """What a run gathers on its way, over all its sessions. A new field also belongs into ``pack`` and ``unpack``.

    base_model: the base model's scores. best, last: by the selection split's primary metric, and by time. predicting:
    evaluations in progress, by their labels. trained: whether training is over. diverged: why the run did, if it did.
    seconds: by phase, and elapsed: of all of them, until the last checkpoint. generated: tokens. sessions: processes
    that the run took so far.
    """

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    base_model: dict[str, Any] | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: EpochResult | None = None
    last: EpochResult | None = None
    predicting: dict[str, Predictions] = field(default_factory=dict)
    trained: bool = False
    diverged: str | None = None
    seconds: dict[str, float | None] = field(default_factory=dict)
    generated: int = 0
    sessions: int = 1
    elapsed: float = 0.0
    peak_memory: int | None = None

    def kept_epochs(self) -> list[EpochResult]:
        """The last and the best epoch, once where they are the same; the best comes last."""
        found = [] if self.last is None or self.last is self.best else [self.last]
        return found if self.best is None else [*found, self.best]

    def drop(self, epoch: EpochResult) -> None:
        """Forget an epoch whose predictions cannot be made."""
        self.best = None if self.best is epoch else self.best
        self.last = None if self.last is epoch else self.last

    def add_train_losses(self, steps: list[dict[str, float]]) -> None:
        """Write into each evaluation's row the mean training loss since the one before."""
        before = 0
        for row in self.epochs:
            losses = [step["loss"] for step in steps[before : row["step"]]]
            mean = math.fsum(losses) / len(losses)
            row["train_loss"] = mean if math.isfinite(mean) else None
            before = row["step"]


def pack(state: RunState) -> Checkpoint:
    """The state as JSON values and tensors. While training lasts, the last epoch is left out: another will follow."""
    values: dict[str, Any] = {key: getattr(state, name) for name, key in _IN_CHECKPOINTS.items()}
    values["started"] = state.started.isoformat()
    values["answered"] = {
        label: {"outputs": list(one.texts.items()), "tokens": one.tokens, "labels": list(one.labels.items())}
        for label, one in state.predicting.items()
    }
    values["last_is_best"] = state.last is state.best
    tensors: dict[str, Tensor] = {}
    kept = {"best": state.best}
    if state.trained and state.last is not state.best:
        kept["last"] = state.last
    for which, epoch in kept.items():
        values[which] = None
        if epoch is not None:
            plain = {item.name: getattr(epoch, item.name) for item in dataclasses.fields(epoch)}
            tensors |= {f"{which}/{name}": tensor for name, tensor in plain.pop("tensors").items()}
            values[which] = plain | {"report": epoch.report and dataclasses.asdict(epoch.report)}
    return Checkpoint(values, tensors)


def unpack(checkpoint: Checkpoint) -> RunState:
    """What ``pack`` has packed."""
    values = checkpoint.values
    plain = {name: values[key] for name, key in _IN_CHECKPOINTS.items()}
    state = RunState(started=datetime.fromisoformat(values["started"]), **plain)
    for label, one in values["answered"].items():
        labels = {at: (text, probability) for at, (text, probability) in one["labels"]}
        state.predicting[label] = Predictions(dict(one["outputs"]), one["tokens"], labels)
    state.best = _epoch(checkpoint, "best")
    state.last = state.best if values["last_is_best"] else _epoch(checkpoint, "last")
    return state


def _epoch(checkpoint: Checkpoint, which: str) -> EpochResult | None:
    plain = checkpoint.values.get(which)
    if plain is None:
        return None
    prefix = f"{which}/"
    tensors = {
        name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)
    }
    report = plain.pop("report")
    predictions = report and ScoredPredictions(Outputs(**report["outputs"]), Scored(**report["scored"]))
    return EpochResult(**plain, tensors=tensors, report=predictions)
