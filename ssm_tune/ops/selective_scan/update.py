"""``selective_state_update``: one position of the scan, for decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.backend import kernels_run
from ssm_tune.ops.selective_scan.inputs import ScanInputs


def selective_state_update(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    *,
    dt_bias: Tensor,
    state_offset: Tensor | None = None,
    output_offset: Tensor | None = None,
    source: Tensor | None = None,
    into: Tensor | None = None,
    log_A: bool = False,
) -> tuple[Tensor, Tensor]:
    """``selective_scan`` for a single position, with softplus: y (R, D) in u's dtype, and the state after it.

    Args:
        state: (R, D, N) in the state's dtype. Where the kernels run, and no gradient can be asked for, it is changed
            in place and handed back.
        source: (R,) int64, the row of ``state`` that each row continues; below 0 for rows whose results do not matter.
            With it ``into`` (R, D, N), other memory, takes the state after the position.
        u, dt, z: (R, D); B, C: (R, N); the others as ``selective_scan`` takes them.
    """
    given = (state, u, dt, A, B, C, D, z, dt_bias, state_offset, output_offset)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    if not differentiable and kernels_run("selective_state_update", u, *A.shape):
        from ssm_tune.ops.selective_scan.update_launch import run_update

        state = state.contiguous()
        after = state if into is None else into
        inputs = ScanInputs(
            u,
            dt.to(u.dtype),
            A,
            B.to(u.dtype),
            C.to(u.dtype),
            D,
            z.to(u.dtype),
            dt_bias,
            state_offset=state_offset,
            output_offset=output_offset,
        )
        return run_update(inputs, state, after, source, log_A), after
    if source is not None:
        state = state.index_select(0, source.clamp(min=0))
    wide = state.dtype
    dt = F.softplus(dt.to(wide) + dt_bias.to(wide))
    decay = (dt.unsqueeze(2) * (-torch.exp(A.to(wide)) if log_A else A)).exp_()
    state = decay.mul_(state).add_((dt * u.to(wide)).unsqueeze(2) * B.to(wide).unsqueeze(1))
    C = C.to(wide)
    y = torch.matmul(C.unsqueeze(1), state.mT).squeeze(1)  # a row first: on a CPU a column after the matrix is slower
    if state_offset is not None:
        y = y + torch.matmul(C, state_offset.to(wide).t())
    if output_offset is not None:
        y = y + output_offset.to(wide)
    y = (y + u.to(wide) * D.to(wide)) * F.silu(z.to(wide))
    return y.to(u.dtype), state if into is None else into.copy_(state)
