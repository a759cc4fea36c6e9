"""``state_space_dual_update`` on a GPU."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ssm_tune.ops.state_space_dual.gpu.update_kernel import update_state


def run_update(
    before: Tensor, after: Tensor, source: Tensor | None, x: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, dt_bias: Tensor | None, state_offset: Tensor | None, output_offset: Tensor | None,
    limits: tuple[float, float],
) -> Tensor:  # fmt: skip
    """y (R, H, P); ``before`` and ``after`` are contiguous and may be one."""
    rows, heads, width = x.shape
    groups, states = B.shape[1:]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    x, B, C = (tensor if tensor.stride(2) == 1 else tensor.contiguous() for tensor in (x, B, C))
    D, dt_bias, state_offset, output_offset = (
        None if w is None else w.contiguous() for w in (D, dt_bias, state_offset, output_offset)
    )
    N_tile = triton.next_power_of_2(states)
    P_tile = min(triton.next_power_of_2(width), max(1, 4096 // N_tile))
    update_state[(rows * heads, triton.cdiv(width, P_tile))](
        before, after, source, x, dt, A_log.contiguous(), B, C, D, dt_bias, state_offset, output_offset, y,
        *x.stride()[:2], *dt.stride(), *B.stride()[:2], *C.stride()[:2], heads, heads // groups, *limits,
        P=width, N=states, P_TILE=P_tile, N_TILE=N_tile, num_warps=4,
    )  # fmt: skip
    return y
