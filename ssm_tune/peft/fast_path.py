"""The runner's own scan in transformers' Mamba-1 mixers, where its kernels can run.

Mamba-2 mixers scan with transformers' functions: ``ssm_tune.ops`` has no scan with one decay a head. Where it has one,
``RecurrentLayer._scan_mamba2`` is the place that calls it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_tune.ops.backend import kernels_run
from ssm_tune.ops.selective_scan import selective_scan


def kernels_can_run(x: Tensor, A: Tensor) -> bool:
    """Whether the kernels can scan ``x`` (B, D, L) with A (D, N). They are left out of what torch.compile traces."""
    if torch.compiler.is_compiling() or x.device.type != "cuda":
        return False
    return kernels_run("selective_scan", x.transpose(1, 2), *A.shape)


def fast_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    state_offset: Tensor | None = None,
    output_offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``selective_scan`` in transformers' layout: x, dt, z (B, D, L), B, C (B, N, L) -> y (B, D, L), h_L (B, D, N).

    mask: (B, L), 0 for padding, which leaves the state as it is where there is an initial state. All inputs are taken
    in x's dtype, the sums run in float32.
    """
    u, dt, B, C = (one.transpose(1, 2).to(x.dtype) for one in (x, dt, B, C))
    if mask is not None and initial_state is not None:
        dt = dt.masked_fill((mask == 0).unsqueeze(2), float("-inf"))
    y, state = selective_scan(
        u,
        dt,
        A,
        B,
        C,
        D,
        None if z is None else z.transpose(1, 2).to(x.dtype),
        dt_bias=dt_bias,
        dt_softplus=True,
        initial_state=initial_state,
        state_offset=state_offset,
        output_offset=output_offset,
        output_final_state=True,
    )
    return y.transpose(1, 2), state
