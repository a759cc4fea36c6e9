"""The settings of the optimizer, resolved for one run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssm_tune.config.schema import Config, TrainConfig
from ssm_tune.config.tuned import batch_size_of, learning_rate_of
from ssm_tune.records.run_id import without_later_defaults
from ssm_tune.training.learning_rate import rising_steps
from ssm_tune.utils.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainSettings:
    """What training depends on. Defaults and checks are those of ``config.schema.TrainConfig``.

    epochs; max_steps: optimizer steps, None: all epochs. batch_size: examples. max_grad_norm: gradients are clipped to.
    weight_decay, betas, eps: AdamW's. lr_schedule, lr_warmup: as learning_rate.py has them. stop_when_saturated: end
    where the loss stays near 0, as the official code does.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    max_steps: int | None
    max_grad_norm: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    stop_when_saturated: bool
    lr_schedule: str = "linear"
    lr_warmup: float = 0.0

    @classmethod
    def of(
        cls, config: TrainConfig, learning_rate: float, batch_size: int, seed: int, stop_when_saturated: bool = False
    ) -> TrainSettings:
        """The settings of a ``train`` section with what it leaves open."""
        return cls(
            epochs=config.epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            max_steps=config.max_steps,
            max_grad_norm=config.max_grad_norm,
            weight_decay=config.weight_decay,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            stop_when_saturated=stop_when_saturated,
            lr_schedule=config.lr_schedule,
            lr_warmup=config.lr_warmup,
        )

    def identity(self) -> dict[str, Any]:
        """What of these determines a result: settings younger than the oldest records only where they are not the
        default."""
        return without_later_defaults(dataclasses.asdict(self))


def total_steps(examples: int, settings: TrainSettings) -> tuple[int, int]:
    """(steps between evaluations, all steps), as the official code counts them.

    Both count the incomplete batch that the loader drops, so that a run goes a few batches into one epoch more.
    """
    if examples < settings.batch_size:
        raise UserError(f"train.batch_size={settings.batch_size} is more than the {examples} training examples")
    per_epoch = math.ceil(examples / settings.batch_size)
    total = settings.epochs * per_epoch
    total = total if settings.max_steps is None else min(total, settings.max_steps)
    rising_steps(settings.lr_warmup, total)  # refused where it leaves nothing
    return per_epoch, total


def train_settings(config: Config, protocol: str, model: str) -> tuple[TrainSettings, str]:
    """The settings for one run, and where the learning rate comes from. model: its name."""
    rate, source = learning_rate_of(config, model)
    batch_size = batch_size_of(config, model)
    return TrainSettings.of(config.train, rate, batch_size, config.seed, protocol == "paper"), source


def adapter_dtype(config: Config, source: str, model: torch.dtype) -> torch.dtype:
    """The dtype of the trained parameters. source: where the learning rate comes from; model: its dtype."""
    import torch

    wanted, tuned = config.train.adapter_dtype, config.tuned
    if wanted == "auto":
        # learning rates that were found with bfloat16 adapters and moments (the paper's) belong to those
        narrow = source == tuned["source"] and tuned["adapter_dtype"] == "bfloat16" and model == torch.bfloat16
        wanted = "bfloat16" if narrow else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wanted]
