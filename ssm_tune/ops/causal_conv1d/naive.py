"""``causal_conv1d`` as its equation reads, for tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def naive_causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, initial_state: Tensor | None = None
) -> Tensor:
    """``silu(bias + sum over k of weight[:, k] x_{t-K+1+k})``; arguments and result as ``causal_conv1d``'s."""
    width = weight.shape[1]
    before = x.new_zeros(x.shape[0], width - 1, x.shape[2]) if initial_state is None else initial_state
    padded = torch.cat([before, x], dim=1)
    outputs = []
    for t in range(x.shape[1]):
        y = (padded[:, t : t + width] * weight.t()).sum(1)
        outputs.append(F.silu(y if bias is None else y + bias))
    return torch.stack(outputs, 1)
