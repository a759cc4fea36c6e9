"""What an adapter adds to a scan, as plain tensor functions.

    B batch  L length  D channels  H heads, of D / H channels each  G groups, of H / G heads each  N states a channel

A scan is linear in its state, so an offset that is read beside the state, and a state before the first position, add a
term of their own to the output: ``y_t += C_t h'`` and ``y_t += C_t (a_1 ... a_t) h_0``. Mamba-1 is H = D and G = 1,
with a decay for each channel and state; in Mamba-2 the channels of a head share one decay, and the heads of a group B
and C.
All sums run in float32, or in float64 where the inputs are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over inputs of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def read_state(C: Tensor, state: Tensor) -> Tensor:
    """``C_t h'`` for C (B, L, G, N) and a state (D, N) that stays the same: (B, L, D)."""
    G, N = C.shape[2:]
    state = state.to(C.dtype).reshape(G, -1, N)
    return torch.einsum("blgn,gdn->blgd", C, state).flatten(2)


def read_low_rank(C: Tensor, U: Tensor, V: Tensor) -> Tensor:
    """``C_t (U V)`` for C (B, L, G, N), U (D, r) and V (r, N) without the product U V: (B, L, D)."""
    G = C.shape[2]
    return torch.einsum("blgr,gdr->blgd", C @ V.to(C.dtype).t(), U.to(C.dtype).reshape(G, -1, U.shape[1])).flatten(2)


def step_sizes(
    dt: Tensor, bias: Tensor | None, softplus: bool, limits: tuple[float, float] | None, mask: Tensor | None
) -> Tensor:
    """The step sizes (B, L, heads) that a scan runs with; 0 where ``mask`` (B, L) is, so that padding keeps states.

    dt: before its bias and softplus; limits: the least and greatest size, where the scan has such.
    """
    if bias is not None:
        dt = dt + bias.to(dt.dtype)
    if softplus:
        dt = F.softplus(dt)
    if limits is not None:
        dt = dt.clamp(min=limits[0], max=limits[1])
    dt = dt.to(sum_dtype(dt.dtype))
    return dt if mask is None else dt * (mask != 0).unsqueeze(2)


def read_initial_state(C: Tensor, dt: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """What a state before the first position adds to the output, (B, L, D), and to the last state, (B, D, N).

    C: (B, L, G, N). dt: (B, L, heads) as ``step_sizes`` gives it. A: (D, N) with heads = D, or (heads,). state: (D, N).
    """
    passed = dt.cumsum(1)
    A, state = A.to(passed.dtype), state.to(passed.dtype)
    D, N = state.shape
    if A.dim() == 2:
        kept = torch.exp(passed.unsqueeze(3) * A) * state
        return torch.einsum("bldn,bln->bld", kept, C.to(kept.dtype).squeeze(2)), kept[:, -1]
    decay = torch.exp(passed * A)
    y = read_state(C.to(decay.dtype), state).unflatten(2, (len(A), -1)) * decay.unsqueeze(3)
    last = state.reshape(len(A), -1, N) * decay[:, -1, :, None, None]
    return y.flatten(2), last.reshape(-1, D, N)


def gated(y: Tensor, z: Tensor | None) -> Tensor:
    """``y`` through the gate that the scan applies itself, where it was given one."""
    return y if z is None else y * F.silu(z.to(y.dtype))


def total(terms: Sequence[Tensor]) -> Tensor | None:
    """The sum of tensors of one shape; None for none."""
    if not terms:
        return None
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def added(out: Tensor, term: Tensor | None) -> Tensor:
    """``out`` with a term added in the wider dtype, in out's own dtype again."""
    return out if term is None else (out.to(term.dtype) + term).to(out.dtype)
