"""``rms_norm``: root-mean-square norm."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_tune.ops.backend import kernels_run
from ssm_tune.ops.member_rows import over_time, run_by_member

_WIDEST = 16384
"""Columns that a block of the kernels holds in registers."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension.

    Args:
        x: (..., d), the residual stream, usually float32.
        weight: (d,).
        eps: added to the mean square.
        dtype: dtype of the result; the sums run in float32 at least.
    """
    return add_rms_norm(x, None, weight, eps, dtype)[0]


def add_rms_norm(
    residual: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``rms_norm(residual + added)`` and that sum, in the residual's dtype; one kernel on a GPU.

    Args:
        residual: (..., d); added: the same shape, in ``dtype``, or nothing. weight: (d,), or beside a residual
            (B, L, d) that of M members, (M, d) (ops/member_rows.py), for each of which the kernel runs once.
    """
    kernel_runs = _kernels_run(residual, added, dtype)
    if kernel_runs and weight.dim() == 2:

        def alone(**own: Tensor) -> tuple[Tensor, Tensor]:
            return add_rms_norm(**own, eps=eps, dtype=dtype)

        batch = {"residual": residual, "added": added}
        joined: tuple[Tensor, Tensor] = run_by_member(alone, weight.shape[0], batch, {"weight": (weight, 1)})
        return joined
    if kernel_runs:
        from ssm_tune.ops.rms_norm.cuda import norm

        return norm(residual, added, weight, eps, dtype)
    total = residual if added is None else residual + added
    wide = total if total.dtype == torch.float64 else total.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * over_time(weight.to(wide.dtype), 1, wide.shape[0])).to(dtype), total


def _kernels_run(residual: Tensor, added: Tensor | None, dtype: torch.dtype) -> bool:
    fitting = residual.dtype in (torch.float32, dtype) and dtype != torch.float64
    return fitting and kernels_run("rms_norm", residual, residual.shape[-1]) and residual.shape[-1] <= _WIDEST
