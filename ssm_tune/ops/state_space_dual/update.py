"""``state_space_dual_update``: one position of the scan, for decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_tune.ops.state_space_dual.checks import check_update, triton_kernels_run
from ssm_tune.ops.state_space_dual.cpu import step_sizes


def state_space_dual_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    state_offset: Tensor | None = None,
    output_offset: Tensor | None = None,
    source: Tensor | None = None,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``state_space_dual`` for a single position: y (R, H, P) in x's dtype, and the state after it.

    Args:
        state: (R, H, P, N) in the state's dtype. Where the kernels run, and no gradient can be asked for, it is changed
            in place and handed back.
        x: (R, H, P); dt: (R, H); B, C: (R, G, N); the others as ``state_space_dual`` takes them.
        source: (R,) int64, the row of ``state`` that each row continues from; below 0: any. With it ``into``
            (R, H, P, N), other memory, takes the state after the position.

    Raises:
        ValueError: shapes or limits that do not belong together, named.
        KernelError: a backend is forced that cannot take these tensors; the reason is named.
    """
    check_update(
        state,
        x,
        dt,
        A_log,
        B,
        C,
        dt_limit,
        D=D,
        dt_bias=dt_bias,
        state_offset=state_offset,
        output_offset=output_offset,
        source=source,
        into=into,
    )
    given = (state, x, dt, A_log, B, C, D, dt_bias, state_offset, output_offset)
    differentiable = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
    if not differentiable and triton_kernels_run("state_space_dual_update", x, B.shape[2]):
        from ssm_tune.ops.state_space_dual.gpu.update import run_update

        state = state.contiguous()
        after = state if into is None else into
        return run_update(state, after, source, *given[1:], dt_limit), after
    if source is not None:
        state = state.index_select(0, source.clamp(min=0))
    wide = state.dtype
    step = step_sizes(dt, dt_bias, dt_limit, wide)
    share = x.shape[1] // B.shape[1]
    B, C = (tensor.to(wide).repeat_interleave(share, dim=1) for tensor in (B, C))  # (R, H, N)
    decay = torch.exp(step * -torch.exp(A_log.to(wide)))
    put = (x.to(wide) * step.unsqueeze(2)).unsqueeze(3) * B.unsqueeze(2)
    state = torch.addcmul(put, decay[..., None, None], state)
    read = state if state_offset is None else state + state_offset.to(wide)
    y = torch.matmul(read, C.unsqueeze(3)).squeeze(3)
    if output_offset is not None:
        y = y + output_offset.to(wide)
    if D is not None:
        y = y + x.to(wide) * D.to(wide).unsqueeze(1)
    return y.to(x.dtype), state if into is None else into.copy_(state)
