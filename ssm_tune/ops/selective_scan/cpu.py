"""The selective scan in plain PyTorch, for any device: forward, and a backward of its own.

The recurrence runs over time in a Python loop, so the work of one step must be one cheap kernel. Three choices
make that fast enough to train with on a CPU:

* states lie as (time, batch, N, D): every broadcast then runs along contiguous channels;
* time is cut into chunks whose buffers stay in the cache, and one step is a single fused multiply-add;
* only the states at the starts of chunks are kept; the backward recomputes the others, chunk by chunk.

Autograd through the loop would record several nodes a step and keep L x B x N x D floats a few times over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.member_rows import by_row, member_matmul, over_time
from ssm_tune.ops.selective_scan.inputs import ScanInputs, state_dtype

# Elements of one (T, B, N, D) chunk buffer. On a CPU a few of them should fit the cache together: 2**17 and
# 2**18 were best on a 2-core x86 machine, 2**15 and 2**22 half as fast. On a GPU launches are dear and memory is not.
_CHUNK_ELEMENTS = {"cpu": 2**17, "cuda": 2**25}


def _chunks(length: int, elements_per_step: int, device: torch.device) -> list[tuple[int, int]]:
    budget = _CHUNK_ELEMENTS.get(device.type, _CHUNK_ELEMENTS["cuda"])
    size = max(1, min(length, budget // max(1, elements_per_step)))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


class _TimeMajor:
    """The op's inputs with time first, contiguous, in the state's dtype: u, dt (L, B, D); B, C (L, B, N); A (N, D), or
    (B, N, D) where rows have their own."""

    def __init__(self, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.u, self.dt, self.B, self.C = (_time_major(tensor, A.dtype) for tensor in (u, dt, B, C))
        self.A = A.mT.contiguous()


def _time_major(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.transpose(0, 1).to(dtype).contiguous()


class _Chunk:
    """Decays exp(dt A) and states of the positions [start, end), computed from the state before them.

    decay, state: (T, B, N, D); dtu = dt * u: (T, B, D).
    """

    def __init__(self, inputs: _TimeMajor, start: int, end: int, before: Tensor) -> None:
        self.dt, self.u = inputs.dt[start:end], inputs.u[start:end]
        self.B, self.C = inputs.B[start:end], inputs.C[start:end]
        self.dtu = self.dt * self.u
        self.decay = (self.dt.unsqueeze(2) * inputs.A).exp_()
        self.state = self.dtu.unsqueeze(2) * self.B.unsqueeze(3)
        for decay, state in zip(self.decay.unbind(), self.state.unbind(), strict=True):
            before = torch.addcmul(state, decay, before, out=state)


def _over_states(weights: Tensor, states: Tensor, out: Tensor) -> Tensor:
    """Sum over N: (T, B, N) with (T, B, N, D) -> (T, B, D), into the contiguous ``out``."""
    torch.bmm(weights.flatten(0, 1).unsqueeze(1), states.flatten(0, 1), out=out.view(-1, 1, out.shape[2]))
    return out


def _over_channels(states: Tensor, weights: Tensor, out: Tensor) -> None:
    """Sum over D: (T, B, N, D) with (T, B, D) -> (T, B, N), into the contiguous ``out``.

    A row times a matrix: on a CPU a matrix times a column, the same sums, takes a slower way.
    """
    torch.bmm(weights.flatten(0, 1).unsqueeze(1), states.flatten(0, 1).mT, out=out.view(-1, 1, out.shape[2]))


def scan(inputs: ScanInputs, dt_softplus: bool, log_A: bool) -> tuple[Tensor, Tensor]:
    """``selective_scan``: y (B, L, D) in u's dtype and the final state (B, D, N) in the state's."""
    u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset = inputs
    dtype = state_dtype(u.dtype)
    step = dt.to(dtype)
    if dt_bias is not None:
        step = step + over_time(dt_bias.to(dtype), 1, u.shape[0])
    if dt_softplus:
        step = F.softplus(step)
    rows, channels, states = u.shape[0], *A.shape[-2:]
    if initial_state is None:
        initial_state = u.new_zeros(rows, channels, states, dtype=dtype)
    else:
        initial_state = by_row(initial_state.to(dtype), 2, rows).expand(rows, channels, states)
    A = by_row(-torch.exp(A.to(dtype)) if log_A else A.to(dtype), 2, rows)
    y, final_state = SelectiveScan.apply(u, step, A, B, C, initial_state)
    if state_offset is not None:
        y = y + member_matmul(C.to(dtype), state_offset.to(dtype).mT)
    if output_offset is not None:
        y = y + over_time(output_offset.to(dtype), 1, rows)
    if D is not None:
        y = y + u.to(dtype) * over_time(D.to(dtype), 1, rows)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), final_state


class SelectiveScan(torch.autograd.Function):
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t and y_t = C_t h_t, from a given h_0; returns y and h_L.

    Args:
        u, dt: (B, L, D), any floating dtype; dt is positive already (after softplus).
        A: (D, N), or each row's own (B, D, N), in the state's dtype, which is the dtype of all sums (float32, or
            float64 for tests).
        B, C: (B, L, N).
        initial_state: (B, D, N) in the state's dtype.

    Returns y (B, L, D) in the state's dtype and the final state (B, D, N). Source: Mamba, equations 2a and 2b
    with the discretisation of its algorithm 2.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, length, channels = u.shape
        inputs = _TimeMajor(u, dt, A, B, C)
        state = initial_state.transpose(1, 2).contiguous()
        chunks = _chunks(length, state.numel(), u.device)
        keep = any(ctx.needs_input_grad)
        chunk_states = state.new_empty((len(chunks) if keep else 0, *state.shape))
        y = state.new_empty(length, batch, channels)
        for index, (start, end) in enumerate(chunks):
            if keep:
                chunk_states[index] = state
            chunk = _Chunk(inputs, start, end, state)
            _over_states(chunk.C, chunk.state, out=y[start:end])
            state = chunk.state[-1].clone()  # a view would keep the whole chunk alive
        ctx.save_for_backward(u, dt, A, B, C, chunk_states)
        ctx.chunks = chunks
        return y.transpose(0, 1), state.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("selective_scan")
        grad_y, grad_final = output_grads
        u, dt, A, B, C, chunk_states = ctx.saved_tensors
        need_u, need_dt, need_A, need_B, need_C, need_initial = ctx.needs_input_grad
        inputs = _TimeMajor(u, dt, A, B, C)
        grad_y = _time_major(grad_y, A.dtype)
        like_u, like_B = grad_y.shape, inputs.B.shape
        grad_u = chunk_states.new_empty(like_u) if need_u else None
        grad_dt = chunk_states.new_empty(like_u) if need_dt else None
        grad_B = chunk_states.new_empty(like_B) if need_B else None
        grad_C = chunk_states.new_empty(like_B) if need_C else None
        grad_A = torch.zeros_like(inputs.A) if need_A else None
        carry = grad_final.transpose(1, 2)  # gradient of the state after the chunk, (B, N, D)
        for index, (start, end) in _backwards(ctx.chunks):
            before = chunk_states[index]
            chunk = _Chunk(inputs, start, end, before)
            here = grad_y[start:end]
            if grad_C is not None:
                _over_channels(chunk.state, here, out=grad_C[start:end])
            # gradient of every state of the chunk; what flows back through time is added from the end
            grad_state = chunk.C.unsqueeze(3) * here.unsqueeze(2)
            grad_state[-1] += carry
            decays, grads = chunk.decay.unbind(), grad_state.unbind()
            for t in range(end - start - 2, -1, -1):
                torch.addcmul(grads[t], decays[t + 1], grads[t + 1], out=grads[t])
            carry = decays[0] * grads[0]
            if grad_B is not None:
                _over_channels(grad_state, chunk.dtu, out=grad_B[start:end])
            if need_u or need_dt:
                grad_dtu = _over_states(chunk.B, grad_state, out=torch.empty_like(chunk.dtu))
                if grad_u is not None:
                    torch.mul(grad_dtu, chunk.dt, out=grad_u[start:end])
            if need_dt or need_A:
                # gradient of the exponent dt A: grad_state * h_{t-1} * decay, in place in the decay's buffer
                through = chunk.decay.mul_(grad_state)
                through[1:] *= chunk.state[:-1]
                through[0] *= before
                if grad_A is not None:
                    grad_A += (through * chunk.dt.unsqueeze(2)).sum(dim=(0, 1) if A.dim() == 2 else 0)
                if grad_dt is not None:
                    through *= inputs.A
                    torch.addcmul(through.sum(2), grad_dtu, chunk.u, out=grad_dt[start:end])
        return (
            _as_given(grad_u, u),
            _as_given(grad_dt, dt),
            None if grad_A is None else grad_A.mT,
            _as_given(grad_B, B),
            _as_given(grad_C, C),
            carry.transpose(1, 2) if need_initial else None,
        )


def _backwards(chunks: list[tuple[int, int]]) -> Iterator[tuple[int, tuple[int, int]]]:
    return zip(range(len(chunks) - 1, -1, -1), reversed(chunks), strict=True)


def _as_given(grad: Tensor | None, given: Tensor) -> Tensor | None:
    """From time-major in the state's dtype to batch-major in the input's."""
    return None if grad is None else grad.transpose(0, 1).to(given.dtype)
