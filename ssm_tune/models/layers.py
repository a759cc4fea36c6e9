"""Layers that blocks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_tune.ops.gated_rms_norm import gated_rms_norm
from ssm_tune.ops.rms_norm import add_rms_norm


class Projection(nn.Linear):
    """A linear map whose weight may be kept in another dtype than the activations (an adapter's float32)."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class RMSNorm(nn.Module):
    """Root-mean-square norm of the residual stream. Zhang and Sennrich (2019), arXiv 1910.07467."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, residual: Tensor, added: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The norm in ``dtype``, and the residual stream after ``added`` was added to it."""
        return add_rms_norm(residual, added, self.weight, self.eps, dtype)


class GatedRMSNorm(nn.Module):
    """Gate and norm of groups of channels, behind the scan of a Mamba-2 block."""

    def __init__(self, width: int, eps: float, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.groups = eps, groups

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """The norm of ``y * silu(z)``, both (..., width), in their dtype."""
        return gated_rms_norm(y, z, self.weight, self.eps, self.groups)
