"""The runner's own scans in transformers' mixers, where their kernels can run: Mamba-1's and Mamba-2's."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.backend import kernels_run
from ssm_tune.ops.selective_scan import selective_scan
from ssm_tune.ops.state_space_dual import state_space_dual
from ssm_tune.ops.state_space_dual.checks import triton_kernels_run

_NOT_TAKEN = ("z", "seq_idx", "cu_seqlens", "cu_seq_lens_q")
"""A gate, and where several sequences are packed in a row."""


def mamba1_kernels_run(x: Tensor, A: Tensor) -> bool:
    """Whether the kernels can scan ``x`` (B, D, L) with A (D, N). They are left out of what torch.compile traces."""
    if torch.compiler.is_compiling() or x.device.type != "cuda":
        return False
    return kernels_run("selective_scan", x.transpose(1, 2), *A.shape)


def scan_mamba1(
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


def mamba2_kernels_run(x: Tensor, states: int) -> bool:
    """The same for a Mamba-2 scan of ``x`` (B, L, H, P) with N ``states``."""
    if torch.compiler.is_compiling() or x.device.type != "cuda":
        return False
    return triton_kernels_run("state_space_dual", x, states)


def fits_mamba2(options: dict[str, Any]) -> bool:
    """Whether ``scan_mamba2`` does what these arguments ask of transformers' scan."""
    return bool(options["dt_softplus"]) and all(options.get(name) is None for name in _NOT_TAKEN)


def scan_mamba2(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    adapter: dict[str, Tensor | None],
    mask: Tensor | None,
    *,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
    dt_limit: tuple[float, float],
    return_final_states: bool,
    **others: Any,
) -> Any:
    """``state_space_dual`` for transformers' arguments: y (B, L, H, P) in x's dtype or, as it returns them, y and h_L.

    x: (B, L, H, P); dt: (B, L, H); A: (H,), negative; B, C: (B, L, G, N). initial_states: those of a cache,
    (B, H, P, N), in place of the adapter's; others: what ``fits_mamba2`` has looked at. adapter: initial_state and
    state_offset (D, N), output_offset (D,), with D = H P. mask: (B, L), 0 for padding, which does not decay an
    adapter's initial state. Sums and h_L, (B, H, P, N), are float32.
    """
    by_head = {name: None if one is None else one.unflatten(0, x.shape[2:]) for name, one in adapter.items()}
    if initial_states is not None:
        by_head["initial_state"] = initial_states
    elif mask is not None and by_head.get("initial_state") is not None:
        if dt_limit[0] > 0:  # bounded here, before the softplus: the scan would bound the padding's steps as well
            dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
            dt = dt.clamp(*(_before_softplus(size) for size in dt_limit))
            dt_bias, dt_limit = None, (0.0, float("inf"))
        dt = dt.masked_fill((mask == 0).unsqueeze(2), float("-inf"))
    # Triton launches on the current device, which is another one where a model is spread over several
    with torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext():
        return state_space_dual(
            x,
            dt,
            torch.log(-A.float()),
            B,
            C,
            D,
            dt_bias=dt_bias,
            dt_limit=(dt_limit[0], dt_limit[1]),
            output_final_state=return_final_states,
            **by_head,
        )


def _before_softplus(size: float) -> float:
    return size + math.log(-math.expm1(-size))
