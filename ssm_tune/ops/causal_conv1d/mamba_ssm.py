"""``causal_conv1d`` by the package causal-conv1d, for comparison. The package works on (B, D, L)."""

from __future__ import annotations

from torch import Tensor

from ssm_tune.ops.cuda.compiler import KernelError
from ssm_tune.ops.mamba_ssm_backend import OTHERS_HAVE_IT, OnceDifferentiable


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None) -> Tensor:
    """``causal_conv1d``. Raises KernelError unless K is from 2 to 4 and D a multiple of 8."""
    from causal_conv1d import causal_conv1d_fn

    channels, width = x.shape[2], weight.shape[1]
    if not 2 <= width <= 4 or channels % 8:
        raise KernelError(
            f"causal_conv1d: backend=mamba_ssm takes widths 2 to 4 and channels in multiples of 8, got {width} and "
            f"{channels}; {OTHERS_HAVE_IT}"
        )
    start = None if initial_state is None else initial_state.to(x.dtype).contiguous().transpose(1, 2)
    taps, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    y = causal_conv1d_fn(x.transpose(1, 2), taps, bias, initial_states=start, activation="silu")
    return OnceDifferentiable.apply(y).transpose(1, 2)
