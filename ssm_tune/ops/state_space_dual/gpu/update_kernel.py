"""The Triton kernel of one position of the state space dual scan, for decoding."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_tune.ops.state_space_dual.gpu.tiles import exp, load_tile, softplus, store_tile


@triton.jit
def update_state(
    before, after, source, x, dt, A_log, B, C, D, dt_bias, state_offset, output_offset, y,
    x_r, x_h, dt_r, dt_h, B_r, B_g, C_r, C_g, heads, share, least, most,
    P: tl.constexpr, N: tl.constexpr, P_TILE: tl.constexpr, N_TILE: tl.constexpr,
):  # fmt: skip
    """Row source[r] of ``before`` (*, H, P, N), or row r, moves on by one position to row r of ``after``."""
    r, h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    p, n = tl.program_id(1) * P_TILE + tl.arange(0, P_TILE), tl.arange(0, N_TILE)
    origin = r
    if source is not None:
        origin = tl.maximum(tl.load(source + r), 0).to(tl.int64)
    raw = tl.load(dt + r * dt_r + h * dt_h).to(tl.float32)
    if dt_bias is not None:
        raw += tl.load(dt_bias + h).to(tl.float32)
    step, _ = softplus(raw)
    step = tl.minimum(tl.maximum(step, least), most)
    decay = exp(-exp(tl.load(A_log + h).to(tl.float32), True) * step, True)
    group = h // share
    here = tl.load(x + r * x_r + h * x_h + p, mask=p < P, other=0.0).to(tl.float32)
    B_row = tl.load(B + r * B_r + group * B_g + n, mask=n < N, other=0.0).to(tl.float32)
    C_row = tl.load(C + r * C_r + group * C_g + n, mask=n < N, other=0.0).to(tl.float32)
    state = load_tile(before + (origin * heads + h) * P * N, p, n, N, P, N)
    state = state * decay + (here * step)[:, None] * B_row[None, :]
    store_tile(after + (r * heads + h) * P * N, state, p, n, N, P, N)
    if state_offset is not None:
        state += load_tile(state_offset + h * P * N, p, n, N, P, N).to(tl.float32)
    out = tl.sum(state * C_row[None, :], 1)
    if D is not None:
        out += tl.load(D + h).to(tl.float32) * here
    if output_offset is not None:
        out += tl.load(output_offset + h * P + p, mask=p < P, other=0.0).to(tl.float32)
    tl.store(y + (r * heads + h) * P + p, out.to(y.dtype.element_ty), mask=p < P)
