"""Triton kernels from dt to step sizes and sums of log decays, and back to the gradient of dt."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_tune.ops.state_space_dual.gpu.tiles import exp, softplus


@triton.jit
def raw_steps(dt, dt_bias, b, t, h, dt_b, dt_l, dt_h, L, H):
    """dt + dt_bias of positions t (rows) and heads h (columns)."""
    inside = (t[:, None] < L) & (h[None, :] < H)
    raw = tl.load(dt + b * dt_b + t[:, None].to(tl.int64) * dt_l + h[None, :] * dt_h, mask=inside, other=0.0)
    raw = raw.to(tl.float32)
    if dt_bias is not None:
        raw += tl.load(dt_bias + h, mask=h < H, other=0.0).to(tl.float32)[None, :]
    return raw


@triton.jit
def step_sizes(
    dt, A_log, dt_bias, lengths, steps, totals, rests,
    dt_b, dt_l, dt_h, L, chunks, H, least, most, Q: tl.constexpr, H_TILE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Step sizes, 0 from a row's length on, and sums of log decays since the chunk's start, as one or two floats."""
    b, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    t, h = chunk * Q + tl.arange(0, Q), tl.program_id(1) * H_TILE + tl.arange(0, H_TILE)
    length = L if lengths is None else tl.load(lengths + b).to(tl.int32)
    step, _ = softplus(raw_steps(dt, dt_bias, b, t, h, dt_b, dt_l, dt_h, L, H))
    step = tl.where((t < length)[:, None], tl.minimum(tl.maximum(step, least), most), 0.0)
    rate = -exp(tl.load(A_log + h, mask=h < H, other=0.0).to(tl.float32), True)[None, :]
    place = (b * H + h)[None, :] * (chunks * Q) + t[:, None]
    inside = (h < H)[None, :] & (t >= 0)[:, None]
    tl.store(steps + place, step, mask=inside)
    if EXACT:
        exact = tl.cumsum(rate.to(tl.float64) * step.to(tl.float64), 0)
        total = exact.to(tl.float32)
        tl.store(rests + place, (exact - total.to(tl.float64)).to(tl.float32), mask=inside)
    else:
        total = tl.cumsum(rate * step, 0)
    tl.store(totals + place, total, mask=inside)


@triton.jit
def step_gradients(
    dt, A_log, dt_bias, lengths, steps, totals, d_step, d_later, d_earlier, d_put, d_through, d_dt, d_A_log, d_bias,
    dt_b, dt_l, dt_h, L, chunks, H, least, most, Q: tl.constexpr, H_TILE: tl.constexpr, EXACT: tl.constexpr,
    CLOSE: tl.constexpr,
):  # fmt: skip
    """d_dt (B, L, H), and d_A_log, d_bias (B chunks, H) to be summed over their first dimension.

    A log decay at k is in the products of every pair t >= k > s of positions, of the chunk's start and t >= k, of s < k
    and its end, and of start and end. (B, H, T): d_step, the gradients of step sizes as factors of x; d_later, what is
    summed over t >= k; d_earlier, with its sign changed, or if CLOSE the sums over pairs themselves; d_put, summed over
    s < k; d_through: (B, H, chunks).
    """
    row = tl.program_id(0)
    b, chunk = (row // chunks).to(tl.int64), row % chunks
    within, h = tl.arange(0, Q), tl.program_id(1) * H_TILE + tl.arange(0, H_TILE)
    t = chunk * Q + within
    place = (b * H + h)[None, :] * (chunks * Q) + t[:, None]
    inside = (h < H)[None, :] & (t >= 0)[:, None]
    later = tl.load(d_later + place, mask=inside, other=0.0)
    if CLOSE:
        d_decay = tl.cumsum(later, 0, reverse=True) + tl.load(d_earlier + place, mask=inside, other=0.0)
    else:
        d_decay = tl.cumsum(later - tl.load(d_earlier + place, mask=inside, other=0.0), 0, reverse=True)
    if d_put is not None:
        d_decay += tl.cumsum(tl.load(d_put + place - 1, mask=inside & (within > 0)[:, None], other=0.0), 0)
    if d_through is not None:
        whole = exp(tl.load(totals + (b * H + h) * (chunks * Q) + chunk * Q + Q - 1, mask=h < H, other=0.0), EXACT)
        through = tl.load(d_through + (b * H + h) * chunks + chunk, mask=h < H, other=0.0)
        d_decay += (through * whole)[None, :]
    length = L if lengths is None else tl.load(lengths + b).to(tl.int32)
    rate = -exp(tl.load(A_log + h, mask=h < H, other=0.0).to(tl.float32), True)[None, :]
    step, slope = softplus(raw_steps(dt, dt_bias, b, t, h, dt_b, dt_l, dt_h, L, H))
    slope = tl.where((step >= least) & (step <= most) & (t < length)[:, None], slope, 0.0)
    d_raw = (d_decay * rate + tl.load(d_step + place, mask=inside, other=0.0)) * slope
    if d_dt is not None:
        there = d_dt + (b * L + t)[:, None] * H + h[None, :]
        tl.store(there, d_raw.to(d_dt.dtype.element_ty), mask=inside & (t < L)[:, None])
    if d_A_log is not None:
        of_step = tl.load(steps + place, mask=inside, other=0.0) * rate
        tl.store(d_A_log + row * H + h, tl.sum(d_decay * of_step, 0), mask=h < H)
    if d_bias is not None:
        tl.store(d_bias + row * H + h, tl.sum(d_raw, 0), mask=h < H)
