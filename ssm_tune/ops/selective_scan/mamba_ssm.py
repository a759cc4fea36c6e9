"""``selective_scan`` by the package mamba-ssm, for comparison; the offsets are added outside.

The package works on (B, D, L). What it lacks is refused by name: an initial state, a gradient through the final state,
second derivatives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.cuda.compiler import KernelError
from ssm_tune.ops.mamba_ssm_backend import OTHERS_HAVE_IT, OnceDifferentiable
from ssm_tune.ops.selective_scan.inputs import ScanInputs, state_dtype

MOST_STATES = 256


def scan(inputs: ScanInputs, dt_softplus: bool, log_A: bool, output_final_state: bool) -> tuple[Tensor, Tensor | None]:
    """``selective_scan``: y, and the final state if asked for.

    Raises:
        KernelError: what mamba-ssm's scan cannot do, named.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset = inputs
    through_state = (u, dt, A, B, dt_bias)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in through_state)
    if initial_state is not None:
        raise KernelError(f"selective_scan: backend=mamba_ssm takes no initial state; {OTHERS_HAVE_IT}")
    if output_final_state and differentiable:
        raise KernelError(f"selective_scan: backend=mamba_ssm gives the final state no gradient; {OTHERS_HAVE_IT}")
    if A.shape[1] > MOST_STATES:
        raise KernelError(f"selective_scan: backend=mamba_ssm takes at most {MOST_STATES} states, got {A.shape[1]}")
    A = -torch.exp(A.to(state_dtype(u.dtype))) if log_A else A
    wide = torch.promote_types(u.dtype, torch.float32)
    turned = [None if x is None else x.to(u.dtype).transpose(1, 2) for x in (u, dt, B, C, z)]
    weights = [None if x is None else x.to(wide) for x in (A, D, dt_bias)]
    result = selective_scan_fn(
        turned[0],
        turned[1],
        weights[0],
        turned[2],
        turned[3],
        weights[1],
        turned[4],
        weights[2],
        delta_softplus=dt_softplus,
        return_last_state=output_final_state,
    )
    y, final_state = result if output_final_state else (result, None)
    y = OnceDifferentiable.apply(y).transpose(1, 2)
    added = None
    if state_offset is not None:
        added = torch.einsum("bln,dn->bld", C.to(u.dtype), state_offset.to(u.dtype))
    if output_offset is not None:
        own = output_offset.to(u.dtype)
        added = own if added is None else added + own
    if added is not None:
        y = y + (added if z is None else added * F.silu(z.to(u.dtype)))
    return y, final_state
