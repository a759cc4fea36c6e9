"""``selective_scan`` as its equations read, for tests: slow, and with as much memory as autograd wants."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.selective_scan.inputs import ScanInputs


def naive_selective_scan(inputs: ScanInputs, dt_softplus: bool = False) -> tuple[Tensor, Tensor]:
    """y (B, L, D) and the final state (B, D, N), in the dtype of the inputs; differentiable by autograd alone.

    Source: Gu and Dao (2023), arXiv 2312.00752, equations 2a and 2b with the discretisation of algorithm 2; of the
    offsets: Kang et al. (2025), arXiv 2503.03499, section 4.
    """
    u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset = inputs
    dt = dt if dt_bias is None else dt + dt_bias
    dt = F.softplus(dt) if dt_softplus else dt
    h = torch.zeros_like(A) if initial_state is None else initial_state
    h = h.expand(u.shape[0], *A.shape)
    outputs = []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t]).unsqueeze(-1) * B[:, t, None, :]
        read = h if state_offset is None else h + state_offset
        y = (read * C[:, t, None, :]).sum(-1)
        y = y if output_offset is None else y + output_offset
        y = y if D is None else y + D * u[:, t]
        outputs.append(y if z is None else y * F.silu(z[:, t]))
    return torch.stack(outputs, 1), h
