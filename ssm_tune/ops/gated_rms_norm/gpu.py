"""``gated_rms_norm`` on a GPU: launches of the Triton kernels, and what autograd sees."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.cuda.launch import names_memory
from ssm_tune.ops.cuda.sums import sum_partials
from ssm_tune.ops.gated_rms_norm.kernels import norm_backward, norm_forward
from ssm_tune.ops.packed_gradients import slice_groups, slice_views

_PROGRAMS = 512
"""Programs that share the rows where the weight's gradient is summed over them."""


def _rows(x: Tensor) -> Tensor:
    """(..., D) as (rows, D) with contiguous channels: where it lies, or a copy if its rows do not lie evenly."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


def _sizes(width: int) -> dict[str, int]:
    """Of a program: 16 channels a thread, from one warp to sixteen."""
    tile = triton.next_power_of_2(width)
    return {"WIDTH": width, "TILE": tile, "num_warps": min(16, max(1, tile // 512)), "num_stages": 1}


@names_memory("gated_rms_norm")
def run_forward(y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
    out = torch.empty_like(y, memory_format=torch.contiguous_format)
    width = y.shape[-1]
    y, z = _rows(y), _rows(z)
    norm_forward[(y.shape[0], groups)](
        y, z, weight.contiguous(), out, y.stride(0), z.stride(0), eps, width, **_sizes(width // groups)
    )
    return out


@names_memory("gated_rms_norm, backward")
def run_backward(
    d_out: Tensor, y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of y, z and weight that are ``wanted``.

    That of a z that is a slice of one tensor (B, L, W) lies in memory as large as that (ops/packed_gradients.py).
    """
    want_y, want_z, want_weight = wanted
    dy = torch.empty_like(y, memory_format=torch.contiguous_format) if want_y else None
    dz = _gradient_of_gate(z) if want_z else None
    width = y.shape[-1]
    y, z, d_out = _rows(y), _rows(z), _rows(d_out)
    programs = min(y.shape[0], _PROGRAMS) if want_weight else y.shape[0]
    partial = y.new_empty(programs, width, dtype=torch.float32) if want_weight else None
    dz_row = 0 if dz is None else dz.stride(-2) if dz.dim() > 1 else width
    norm_backward[(programs, groups)](
        d_out,
        y,
        z,
        weight.contiguous(),
        dy,
        dz,
        partial,
        d_out.stride(0),
        y.stride(0),
        z.stride(0),
        dz_row,
        y.shape[0],
        eps,
        width,
        **_sizes(width // groups),
    )
    if partial is None:
        return dy, dz, None
    d_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    sum_partials([(partial, d_weight)])
    return dy, dz, d_weight


def _gradient_of_gate(z: Tensor) -> Tensor:
    """Memory for it; its rows lie evenly."""
    if z.dim() == 3 and (groups := slice_groups([z], [True], [[0]])):
        layout = groups[0][1]
        return slice_views(z.new_empty(layout.shape), layout)[0]
    return torch.empty_like(z, memory_format=torch.contiguous_format)


class GatedNorm(torch.autograd.Function):
    """``gated_rms_norm`` with its arguments."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, eps: float, groups: int) -> Tensor:
        ctx.save_for_backward(y, z, weight)
        ctx.eps, ctx.groups = eps, groups
        return run_forward(y, z, weight, eps, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("gated_rms_norm")
        (d_out,), (y, z, weight), wanted = grads, ctx.saved_tensors, tuple(ctx.needs_input_grad[:3])
        return *run_backward(d_out, y, z, weight, ctx.eps, ctx.groups, wanted), None, None
