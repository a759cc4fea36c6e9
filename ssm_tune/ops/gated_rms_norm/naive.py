"""``gated_rms_norm`` as its equation reads, for tests."""

from __future__ import annotations

import torch
from torch import Tensor


def naive_gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
    """The norm of ``y silu(z)`` over groups of the last dimension, all in the inputs' dtype."""
    width = y.shape[-1] // groups
    parts = []
    for group in range(groups):
        channels = slice(group * width, (group + 1) * width)
        gated = y[..., channels] * z[..., channels] / (1 + torch.exp(-z[..., channels]))
        parts.append(gated / (gated.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight[channels])
    return torch.cat(parts, -1)
