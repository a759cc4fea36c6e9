"""``causal_conv1d``: the short depthwise convolution before the scan."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.backend import kernels_run, mamba_ssm_runs
from ssm_tune.ops.member_rows import count_members, over_time, run_by_member

_KERNEL_WIDTH = 4


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, initial_state: Tensor | None = None) -> Tensor:
    """Depthwise causal convolution over time, then silu.

    Args:
        x: (B, L, D).
        weight: (D, K); tap K-1 meets the present position.
        bias: (D,).
        initial_state: the K-1 inputs before the first, oldest first: (B, K-1, D); zeros where absent.

    weight and bias may be those of M members, behind M (ops/member_rows.py); the kernel then runs once for each.

    Returns (B, L, D) in x's dtype. On a GPU one kernel for K = 4; elsewhere K shifted multiply-adds: with contiguous
    channels that is faster than a grouped convolution on a CPU, and needs no transposed copy.

    Raises:
        KernelError: the backend was chosen by name and cannot run these tensors.
    """
    rows, length, channels = x.shape
    width = weight.shape[-1]
    packages_run = mamba_ssm_runs("causal_conv1d", x)
    kernel_runs = not packages_run and width == _KERNEL_WIDTH and kernels_run("causal_conv1d", x, channels)
    parameters = {"weight": (weight, 2), "bias": (bias, 1)}
    if (packages_run or kernel_runs) and (members := count_members(parameters)) is not None:
        joined: Tensor = run_by_member(causal_conv1d, members, {"x": x, "initial_state": initial_state}, parameters)
        return joined
    if packages_run:
        from ssm_tune.ops.causal_conv1d import mamba_ssm

        return mamba_ssm.conv(x, weight, bias, initial_state)
    if kernel_runs:
        from ssm_tune.ops.causal_conv1d.cuda import CausalConv

        start = None if initial_state is None else initial_state.to(x.dtype)
        out: Tensor = CausalConv.apply(x, weight, bias, start, 0)[1]
        return out
    if initial_state is None:
        initial_state = x.new_zeros(rows, width - 1, channels)
    padded = torch.cat([initial_state.to(x.dtype), x], dim=1)
    taps = [over_time(tap, 1, rows) for tap in weight.to(x.dtype).movedim(-1, 0).contiguous()]
    out = padded[:, width - 1 :] * taps[width - 1]
    if bias is not None:
        out = out + over_time(bias.to(x.dtype), 1, rows)
    for k in range(width - 1):
        out = torch.addcmul(out, padded[:, k : k + length], taps[k])
    return F.silu(out)


def split_conv1d(
    joined: Tensor, first: int, weight: Tensor, bias: Tensor | None = None, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``causal_conv1d`` of D channels of ``joined`` (B, L, W), from number ``first`` on; the channels before them, the
    result (B, L, D), and the channels behind them. weight: (D, K)."""
    channels = weight.shape[-2]
    shared = count_members({"weight": (weight, 2), "bias": (bias, 1)}) is None
    fitting = shared and weight.shape[1] == _KERNEL_WIDTH and not mamba_ssm_runs("causal_conv1d", joined)
    aligned = first % 4 == 0 and joined.shape[2] % 4 == 0  # the kernels write the gradient four channels at a time
    if fitting and aligned and kernels_run("causal_conv1d", joined, channels):
        from ssm_tune.ops.causal_conv1d.cuda import CausalConv

        start = None if initial_state is None else initial_state.to(joined.dtype)
        before, out, behind = CausalConv.apply(joined, weight, bias, start, first)
        return before, out, behind
    before, x, behind = joined.split([first, channels, joined.shape[2] - first - channels], dim=-1)
    return before, causal_conv1d(x, weight, bias, initial_state), behind


def causal_conv1d_update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor, source: Tensor | None = None, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One position of ``causal_conv1d``, for decoding: x (R, D) -> (R, D), and the state after it.

    Args:
        state: (R, K-1, D), the inputs before x, oldest first. Where the kernels run, and no gradient can be asked for,
            it is changed in place and handed back.
        weight: (D, K); bias: (D,).
        source, into: as ``selective_state_update`` takes them.
    """
    fitting = weight.shape[1] == _KERNEL_WIDTH and state.dtype == x.dtype
    if fitting and not _differentiable(x, state, weight, bias) and kernels_run("causal_conv1d_update", x, x.shape[1]):
        from ssm_tune.ops.causal_conv1d.cuda import run_update

        state = state.contiguous()
        after = state if into is None else into
        return run_update(x, state, after, source, weight, bias), after
    if source is not None:
        state = state.index_select(0, source.clamp(min=0))
    window = torch.cat([state, x.unsqueeze(1)], dim=1)  # (R, K, D)
    taps = weight.to(x.dtype).t()
    after = window[:, 1:] if into is None else into.copy_(window[:, 1:])
    return F.silu((window * taps).sum(1) + bias.to(x.dtype)), after


def _differentiable(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
