"""What weights and adapters start as: random draws, all on the CPU in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEP_SIZES = (1e-3, 1e-1)
"""Range of the step sizes before pretraining, log-uniform (Mamba, section 3.6)."""


def uniform(generator: torch.Generator, *shape: int, bound: float) -> Tensor:
    """U(-bound, bound) in float32."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def kaiming(generator: torch.Generator, rows: int, columns: int) -> Tensor:
    """What ``kaiming_uniform_(a=sqrt(5))`` draws for a (rows, columns) weight: U(-1/sqrt(columns), ...)."""
    return uniform(generator, rows, columns, bound=1 / math.sqrt(columns))


def uniform_(tensor: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    """U(-bound, bound) in place."""
    return tensor.uniform_(-bound, bound, generator=generator)


def step_bias(count: int, generator: torch.Generator) -> Tensor:
    """Biases (count,) of step sizes, softplus of which is log-uniform over STEP_SIZES."""
    low, high = (math.log(size) for size in STEP_SIZES)
    size = (torch.rand(count, generator=generator) * (high - low) + low).exp()
    return size + torch.log(-torch.expm1(-size))  # the inverse of softplus
