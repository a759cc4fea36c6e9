"""The settings of the optimizer, resolved for one run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ssm_tune.config.schema import Config
from ssm_tune.config.tuned import batch_size_of, learning_rate_of
from ssm_tune.models.pretrained import DTYPES
from ssm_tune.utils.errors import UserError


@dataclass(frozen=True)
class TrainSettings:
    """batch_size in examples; max_steps in optimizer steps (None: all epochs); saturation: stop when saturated."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    max_steps: int | None = None
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    stop_when_saturated: bool = False


def total_steps(examples: int, settings: TrainSettings) -> tuple[int, int]:
    """(steps between evaluations, all steps), as the official code counts them.

    Both count the incomplete batch that the loader drops, so that a run goes a few batches into one epoch more.
    """
    if examples < settings.batch_size:
        raise UserError(f"train.batch_size={settings.batch_size} is more than the {examples} training examples")
    per_epoch = math.ceil(examples / settings.batch_size)
    total = settings.epochs * per_epoch
    return per_epoch, total if settings.max_steps is None else min(total, settings.max_steps)


def train_settings(config: Config, protocol: str, model: str) -> tuple[TrainSettings, str]:
    """The settings of the optimizer, and where the learning rate comes from."""
    wanted = config.train
    rate, source = learning_rate_of(config, model)
    settings = TrainSettings(
        epochs=wanted.epochs,
        batch_size=batch_size_of(config, model),
        learning_rate=rate,
        seed=config.seed,
        max_steps=wanted.max_steps,
        max_grad_norm=wanted.max_grad_norm,
        weight_decay=wanted.weight_decay,
        betas=(wanted.beta1, wanted.beta2),
        eps=wanted.eps,
        stop_when_saturated=protocol == "paper",
    )
    return settings, source


def adapter_dtype(config: Config, source: str, model: torch.dtype) -> torch.dtype:
    wanted, tuned = config.train.adapter_dtype, config.tuned
    if wanted == "auto":
        # rates that were found with bfloat16 adapters and moments (the paper's) belong to those: they differ in kind
        narrow = source == tuned["source"] and tuned["adapter_dtype"] == "bfloat16" and model == torch.bfloat16
        return torch.bfloat16 if narrow else torch.float32
    return DTYPES[wanted]
