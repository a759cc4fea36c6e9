"""The chunked state space dual form as matrix products in plain PyTorch, with a backward of its own.

Inside a chunk of Q positions the recurrence is a masked (Q, Q) matrix per head, applied to x; between chunks a state
(P, N) per head is carried (Dao and Gu 2024, "Transformers are SSMs", section 6). The heads of a group share B and C:
all products with them are one product a group. Only the states at the starts of chunks are kept; the backward walks the
chunks from the end and computes the rest again.

Letters as in ``__init__``; a chunk's tensors are (B, G, Q, K P) or, per head, (B, G, K, Q, ...), with K = H / G heads a
group.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative

CHUNK = 64
"""Positions of a chunk: the work within chunks grows with it, the work between them falls."""


def step_sizes(dt: Tensor, dt_bias: Tensor | None, limits: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """softplus(dt + dt_bias), clamped to ``limits``, in ``dtype``."""
    dt = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
    return F.softplus(dt).clamp(*limits)


def read_offset(state_offset: Tensor, C: Tensor) -> Tensor:
    """h' C_t: (H, P, N), or each of M members' (M, H, P, N), with (B, L, G, N) -> (B, L, H, P)."""
    groups, (heads, width, states) = C.shape[2], state_offset.shape[-3:]
    by_group = state_offset.reshape(*state_offset.shape[:-3], groups, heads // groups * width, states)
    if by_group.dim() == 3:
        read = torch.einsum("blgn,gdn->blgd", C, by_group)
    else:
        read = torch.einsum("mblgn,mgdn->mblgd", C.unflatten(0, (by_group.shape[0], -1)), by_group)
    return read.reshape(*C.shape[:2], heads, width)


class _Chunk:
    """The positions [start, end): inputs by group, decays by head.

    x: (B, G, Q, K P); B, C: (B, G, Q, N); dt, from_start, to_end: (B, G, K, Q), where ``from_start`` is the decay since
    the chunk's start and ``to_end`` the decay until its end; within: (B, G, K, Q, Q), the decay from position s to t at
    [t, s], 0 where s > t; whole: (B, G, K), the decay over the chunk.
    """

    def __init__(self, inputs: tuple[Tensor, ...], start: int, end: int) -> None:
        x, dt, log_decay, B, C = (tensor[:, start:end] for tensor in inputs)
        _, size, heads, width = x.shape
        self.wide = dt.dtype
        self.groups, self.heads, self.width = B.shape[2], heads // B.shape[2], width
        self.x = self.by_group(x)
        self.B, self.C = (tensor.to(self.wide).transpose(1, 2) for tensor in (B, C))
        self.dt = self.by_head(dt)
        # sums in float64, so that the difference of two large ones is still exact to float32
        total = self.by_head(log_decay).double().cumsum(3)
        apart = (total.unsqueeze(4) - total.unsqueeze(3)).to(self.wide)
        later = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
        self.within = apart.masked_fill_(later, -torch.inf).exp_()
        self.from_start = total.to(self.wide).exp()
        self.to_end = (total[..., -1:] - total).to(self.wide).exp()
        self.whole = self.from_start[..., -1]
        self.similar = self.C @ self.B.mT  # (B, G, Q, Q)

    def by_group(self, tensor: Tensor) -> Tensor:
        """(B, Q, H, P) -> (B, G, Q, K P)"""
        return tensor.to(self.wide).unflatten(2, (self.groups, self.heads)).flatten(3).transpose(1, 2)

    def by_head(self, tensor: Tensor) -> Tensor:
        """(B, Q, H) -> (B, G, K, Q)"""
        return tensor.unflatten(2, (self.groups, self.heads)).permute(0, 2, 3, 1)

    def heads_of(self, tensor: Tensor) -> Tensor:
        """(B, G, Q, K P) -> (B, G, K, Q, P), a view"""
        return tensor.unflatten(3, (self.heads, self.width)).transpose(2, 3)

    def scaled(self, tensor: Tensor, factor: Tensor) -> Tensor:
        """(B, G, Q, K P) times (B, G, K, Q)"""
        return (tensor.unflatten(3, (self.heads, self.width)) * factor.permute(0, 1, 3, 2).unsqueeze(4)).flatten(3)

    def sum_width(self, tensor: Tensor) -> Tensor:
        """(B, G, Q, K P) -> (B, G, K, Q), summed over P"""
        return tensor.unflatten(3, (self.heads, self.width)).sum(4).permute(0, 1, 3, 2)

    def decayed(self, state: Tensor) -> Tensor:
        """A state (B, G, K P, N) times the decay over the chunk."""
        return state * self.whole.repeat_interleave(self.width, dim=2).unsqueeze(3)

    def outputs(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, G, Q, K P) from the state at the chunk's start, and the state at its end."""
        scores = self.within * self.similar.unsqueeze(2) * self.dt.unsqueeze(3)
        y = (scores @ self.heads_of(self.x)).transpose(2, 3).flatten(3)
        y = y + self.scaled(self.C @ state.mT, self.from_start)
        return y, self.decayed(state) + self.scaled(self.x, self.dt * self.to_end).mT @ self.B


class StateSpaceDual(torch.autograd.Function):
    """h_t = exp(log_decay_t) h_{t-1} + dt_t x_t B_t^T and y_t = h_t C_t, from a given h_0.

    Args:
        x: (B, L, H, P); B, C: (B, L, G, N), any floating dtype.
        dt, log_decay: (B, L, H) in the state's dtype, which is the dtype of all sums.
        initial_state: (B, H, P, N) in the state's dtype.

    Returns y (B, L, H, P) and the final state (B, H, P, N), both in the state's dtype.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, length, heads, width = x.shape
        groups, states = B.shape[2:]
        state = initial_state.reshape(batch, groups, heads // groups * width, states)
        y = dt.new_empty(batch, length, heads, width)
        kept = []
        for start in range(0, length, CHUNK):
            end = min(start + CHUNK, length)
            kept.append(state)
            out, state = _Chunk((x, dt, log_decay, B, C), start, end).outputs(state)
            y[:, start:end] = out.transpose(1, 2).reshape(batch, end - start, heads, width)
        ctx.save_for_backward(x, dt, log_decay, B, C, *(kept if any(ctx.needs_input_grad) else ()))
        return y, state.reshape(batch, heads, width, states)

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("state_space_dual")
        grad_y, grad_final = output_grads
        x, dt, log_decay, B, C, *kept = ctx.saved_tensors
        like = (x.shape, dt.shape, dt.shape, B.shape, C.shape)
        wanted = ctx.needs_input_grad
        grads = [dt.new_empty(shape) if want else None for shape, want in zip(like, wanted, strict=False)]
        carry = grad_final.reshape(kept[0].shape)  # gradient of the state at the chunk's end
        for index in range(len(kept) - 1, -1, -1):
            start, end = index * CHUNK, min((index + 1) * CHUNK, x.shape[1])
            chunk = _Chunk((x, dt, log_decay, B, C), start, end)
            dy = chunk.by_group(grad_y[:, start:end])
            found = _chunk_gradients(chunk, kept[index], dy, carry, wanted)
            for whole, part in zip(grads, found, strict=True):
                if whole is not None and part is not None:
                    whole[:, start:end] = part.reshape(whole[:, start:end].shape)
            carry = chunk.decayed(carry) + chunk.scaled(dy, chunk.from_start).mT @ chunk.C
        like_inputs = (x, dt, log_decay, B, C)
        returned = [None if grad is None else grad.to(of.dtype) for grad, of in zip(grads, like_inputs, strict=True)]
        return *returned, carry.reshape(grad_final.shape) if wanted[5] else None


def _chunk_gradients(
    chunk: _Chunk, state: Tensor, dy: Tensor, carry: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, log_decay, B and C in one chunk, each (B, Q, G, ...).

    state: at the chunk's start; dy: (B, G, Q, K P); carry: gradient of the state at the chunk's end.
    """
    want_x, want_dt, want_decay, want_B, want_C, _ = wanted
    dx = d_dt = d_decay = dB = dC = None
    weight = chunk.dt * chunk.to_end
    if want_x or want_dt:
        scores = chunk.within * chunk.similar.unsqueeze(2)
        du = (scores.mT @ chunk.heads_of(dy)).transpose(2, 3).flatten(3)  # gradient of dt x
        du = du + chunk.scaled(chunk.B @ carry.mT, chunk.to_end)
        dx = chunk.scaled(du, chunk.dt).transpose(1, 2) if want_x else None
        d_dt = chunk.sum_width(du * chunk.x).permute(0, 3, 1, 2) if want_dt else None
    if want_decay or want_B or want_C:
        pairs = (chunk.heads_of(dy) @ chunk.heads_of(chunk.x).mT) * chunk.within * chunk.dt.unsqueeze(3)
        over_heads = pairs.sum(2)
    if want_C:
        dC = (over_heads @ chunk.B + chunk.scaled(dy, chunk.from_start) @ state).transpose(1, 2)
    if want_B:
        dB = (over_heads.mT @ chunk.C + chunk.scaled(chunk.x, weight) @ carry).transpose(1, 2)
    if want_decay:
        # log_decay_k is in every product over pairs t >= k > s, over start and t >= k, s < k and end, start and end
        pairs = (pairs * chunk.similar.unsqueeze(2)).tril_(-1)
        from_k = torch.ones_like(pairs[0, 0, 0]).triu_() @ pairs  # at [k, s], summed over t >= k: nothing cancels
        read = chunk.sum_width(dy * (chunk.C @ state.mT)) * chunk.from_start
        put = chunk.sum_width(chunk.x * (chunk.B @ carry.mT)) * weight
        through = (carry * state).sum(3).unflatten(2, (chunk.heads, chunk.width)).sum(3) * chunk.whole
        d_decay = from_k.tril_(-1).sum(4) + read.flip(3).cumsum(3).flip(3) + through.unsqueeze(3)
        d_decay = d_decay + F.pad(put[..., :-1], (1, 0)).cumsum(3)
        d_decay = d_decay.permute(0, 3, 1, 2)
    return dx, d_dt, d_decay, dB, dC
