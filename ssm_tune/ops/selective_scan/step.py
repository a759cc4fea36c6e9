"""``selective_scan_step``: one position of the scan, for decoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.backend import kernels_run


def selective_scan_step(
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
        source: (R,) int64, the row of ``state`` that each row goes on from; of one below 0 nothing is asked. With it
            ``into`` (R, D, N), other memory, takes the state after the position.
        u, dt, z: (R, D); B, C: (R, N); the others as ``selective_scan`` takes them.
    """
    given = (state, u, dt, A, B, C, D, z, dt_bias, state_offset, output_offset)
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    if not differentiable and kernels_run("selective_scan_step", u, *A.shape):
        from ssm_tune.ops.selective_scan.cuda import run_step

        state = state.contiguous()
        after = state if into is None else into
        dt, B, C, z = (x.to(u.dtype) for x in (dt, B, C, z))
        y = run_step(state, after, source, u, dt, A, B, C, D, z, dt_bias, state_offset, output_offset, log_A)
        return y, after
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
