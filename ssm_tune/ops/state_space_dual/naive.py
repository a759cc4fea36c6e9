"""The state space dual recurrence, one position at a time: what every other implementation is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def naive_state_space_dual(
    x: Tensor,
    dt: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    initial_state: Tensor | None = None,
    state_offset: Tensor | None = None,
    output_offset: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``state_space_dual`` with all arguments in one dtype; returns y (B, L, H, P) and the final state (B, H, P, N)."""
    batch, length, heads, width = x.shape
    dt = F.softplus(dt if dt_bias is None else dt + dt_bias).clamp(*dt_limit)
    if lengths is not None:
        dt = dt.where((torch.arange(length, device=x.device) < lengths.unsqueeze(1)).unsqueeze(2), 0)
    B, C = (tensor.repeat_interleave(heads // tensor.shape[2], dim=2) for tensor in (B, C))  # (B, L, H, N)
    h = x.new_zeros(heads, width, B.shape[3]) if initial_state is None else initial_state
    h = h.expand(batch, heads, width, B.shape[3])
    ys = []
    for t in range(length):
        decay = torch.exp(-torch.exp(A_log) * dt[:, t])
        h = decay[..., None, None] * h + (dt[:, t, :, None] * x[:, t]).unsqueeze(3) * B[:, t].unsqueeze(2)
        read = h if state_offset is None else h + state_offset
        y = (read * C[:, t].unsqueeze(2)).sum(3)
        y = y if D is None else y + D.unsqueeze(1) * x[:, t]
        ys.append(y if output_offset is None else y + output_offset)
    return torch.stack(ys, 1), h
