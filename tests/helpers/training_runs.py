"""A trainer of a small model, ready to step, and a capture that needs no GPU."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import torch

from helpers.small_models import small_model
from ssm_tune.config.groups import method_section, names
from ssm_tune.config.schema import TrainConfig
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.ops.cuda.graph import Work
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup
from ssm_tune.training.settings import TrainSettings
from ssm_tune.training.trainer import Trainer

SEQUENCES = [TokenizedExample([(7 * i + j) % 63 + 1 for j in range(5 + i % 7)], 1 + i % 4) for i in range(42)]
METHODS = tuple(names("method"))


class Uncaptured:
    """A ``Capture`` that runs the very work, on the memory of the first call, where a GPU replays it."""

    def __init__(self, refuses: tuple[int, ...] = ()) -> None:
        self.refuses, self.captures, self.replays = refuses, 0, 0

    running = nullcontext

    def __call__(self, work: Work) -> Work:
        self.captures += 1
        if self.captures in self.refuses:
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nand more")
            finally:
                raise RuntimeError("capture invalidated")

        def again() -> None:
            self.replays += 1
            work()

        return again

    def release(self) -> None: ...


def train_settings(**changes: Any) -> TrainSettings:
    """Settings for a few steps, some of them changed."""
    settings = TrainSettings.of(TrainConfig(epochs=2), learning_rate=1e-2, batch_size=4, seed=42)
    return dataclasses.replace(settings, **changes)


def started(
    name: str = "full", sequences: list[TokenizedExample] = SEQUENCES, capture: Uncaptured | None = None,
    options: dict[str, object] | None = None, micro_batch: int | None = None, group: ProcessGroup = SINGLE_PROCESS,
    dtype: torch.dtype | None = None, **changes: Any,
) -> Trainer:  # fmt: skip
    adapter = attach(small_model(), load_method(method_section(name, options)), dtype=dtype)
    settings = train_settings(**changes)
    return Trainer(adapter, sequences, settings, 0, capture, micro_batch, group)
