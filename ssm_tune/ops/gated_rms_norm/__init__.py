"""``gated_rms_norm``: gate and root-mean-square norm of groups of channels, behind the scan of a Mamba-2 block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.member_rows import over_time
from ssm_tune.ops.selective_scan import state_dtype


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """``g / sqrt(mean(g^2) + eps) * weight`` with ``g = y * silu(z)``, the mean over each group of D / G channels.

    Dao and Gu (2024), "Transformers are SSMs", section 7 (the norm comes after the gate).

    Args:
        y, z: (..., D), one dtype. weight: (D,), or that of M members, (M, D), beside a y (B, L, D). groups: G,
            a divisor of D.

    Returns (..., D) in y's dtype; the sums run in float32 (float64 for float64 inputs).
    """
    wide = state_dtype(y.dtype)
    gated = (y.to(wide) * F.silu(z.to(wide))).unflatten(-1, (groups, -1))
    normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    return (normed.flatten(-2) * over_time(weight.to(wide), 1, y.shape[0])).to(y.dtype)
