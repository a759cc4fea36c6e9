"""backend=mamba_ssm: mamba-ssm's scan and causal-conv1d's convolution, the offsets added outside, for comparison.

Both work on (B, D, L); the views below turn ours. What they lack is refused by name: an initial state, a gradient
through the last state, second derivatives.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.cuda.compiler import KernelError

MOST_STATES = 256
_INSTEAD = "backend=cuda and backend=reference have it"


@cache
def missing() -> str | None:
    """Why the packages cannot be used, or None."""
    for module, package in (
        ("mamba_ssm.ops.selective_scan_interface", "mamba-ssm"),
        ("causal_conv1d", "causal-conv1d"),
    ):
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"{package} cannot be imported ({error}); pip install 'ssm-tune[mamba]' builds it with nvcc"
    return None


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    initial_state: Tensor | None, state_offset: Tensor | None, output_offset: Tensor | None, softplus: bool,
    return_last_state: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """``selective_scan`` by mamba-ssm: y, and the last state if asked for.

    Raises:
        KernelError: what mamba-ssm's scan cannot do, named.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (u, dt, A, B, dt_bias))
    if initial_state is not None:
        raise KernelError(f"selective_scan: backend=mamba_ssm takes no initial state; {_INSTEAD}")
    if return_last_state and differentiable:
        raise KernelError(f"selective_scan: backend=mamba_ssm gives the last state no gradient; {_INSTEAD}")
    if A.shape[1] > MOST_STATES:
        raise KernelError(f"selective_scan: backend=mamba_ssm takes at most {MOST_STATES} states, got {A.shape[1]}")
    wide = torch.promote_types(u.dtype, torch.float32)
    flowing = [None if x is None else x.to(u.dtype).transpose(1, 2) for x in (u, dt, B, C, z)]
    weights = [None if x is None else x.to(wide) for x in (A, D, dt_bias)]
    result = selective_scan_fn(flowing[0], flowing[1], weights[0], flowing[2], flowing[3], weights[1], flowing[4],
                               weights[2], delta_softplus=softplus, return_last_state=return_last_state)  # fmt: skip
    y, last = result if return_last_state else (result, None)
    y = _Once.apply(y).transpose(1, 2)
    added = None
    if state_offset is not None:
        added = torch.einsum("bln,dn->bld", C.to(u.dtype), state_offset.to(u.dtype))
    if output_offset is not None:
        own = output_offset.to(u.dtype)
        added = own if added is None else added + own
    if added is not None:
        y = y + (added if z is None else added * F.silu(z.to(u.dtype)))
    return y, last


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None) -> Tensor:
    """``causal_conv1d`` by causal-conv1d; widths 2 to 4, D a multiple of 8."""
    from causal_conv1d import causal_conv1d_fn

    channels = x.shape[2]
    if not 2 <= weight.shape[1] <= 4 or channels % 8:
        raise KernelError(f"causal_conv1d: backend=mamba_ssm takes widths 2 to 4 and channels in multiples of 8, got "
                          f"{weight.shape[1]} and {channels}; {_INSTEAD}")  # fmt: skip
    start = None if initial_state is None else initial_state.to(x.dtype).contiguous().transpose(1, 2)
    taps, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    y = causal_conv1d_fn(x.transpose(1, 2), taps, bias, initial_states=start, activation="silu")
    return _Once.apply(y).transpose(1, 2)


class _Once(torch.autograd.Function):
    """The identity, whose gradient has none: the packages would leave second derivatives out without a word."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        refuse_a_second_derivative("backend=mamba_ssm")
        return grads[0]
