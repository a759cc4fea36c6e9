"""``gated_rms_norm``: gate and root-mean-square norm of groups of channels, behind the scan of a Mamba-2 block."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.backend import kernels_run
from ssm_tune.ops.member_rows import count_members, over_time, run_by_member
from ssm_tune.ops.selective_scan import state_dtype

_WIDEST = 16384
"""Channels of a group that a program of the kernels holds in registers."""


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """``g / sqrt(mean(g^2) + eps) * weight`` with ``g = y * silu(z)``, the mean over each group of D / G channels.

    Dao and Gu (2024), "Transformers are SSMs", section 7 (the norm comes after the gate).

    Args:
        y, z: (..., D), one dtype. weight: (D,), or that of M members, (M, D), beside a y (B, L, D); the kernels then
            run once for each. groups: G, a divisor of D.

    Returns (..., D) in y's dtype; the sums run in float32 (float64 for float64 inputs).

    Raises:
        KernelError: the backend was chosen by name and cannot run these tensors.
    """
    obstacle = None
    if y.shape[-1] // groups > _WIDEST:
        obstacle = f"a group may have at most {_WIDEST} channels, got {y.shape[-1] // groups}"
    if kernels_run("gated_rms_norm", y, y.shape[-1], obstacle=obstacle, triton=True):
        if (members := count_members({"weight": (weight, 1)})) is not None:
            alone = partial(gated_rms_norm, eps=eps, groups=groups)
            joined: Tensor = run_by_member(alone, members, {"y": y, "z": z}, {"weight": (weight, 1)})
            return joined
        from ssm_tune.ops.gated_rms_norm.gpu import GatedNorm

        out: Tensor = GatedNorm.apply(y, z.to(y.dtype), weight, eps, groups)
        return out
    wide = state_dtype(y.dtype)
    gated = (y.to(wide) * F.silu(z.to(wide))).unflatten(-1, (groups, -1))
    normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    return (normed.flatten(-2) * over_time(weight.to(wide), 1, y.shape[0])).to(y.dtype)
