"""Triton kernels that walk the chunks of one row and head, with a tile of a state (N, P) in registers.

States at the borders of chunks lie in memory as (B, chunks, H, N, P).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_tune.ops.state_space_dual.gpu.tiles import exp, load_state, load_tile, product_onto, store_state, to_end


@triton.jit(do_not_specialize=["chunks"])
def walk_states(
    x, B, steps, totals, rests, initial_state, starts, final,
    x_b, x_l, x_h, B_b, B_l, B_g, start_b, L, chunks, heads, share,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, P_TILE: tl.constexpr, N_TILE: tl.constexpr,
    EXACT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The states at the chunks' starts and, (B, H, P, N), the final one; what is None is not made."""
    b, h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    p, n = tl.program_id(1) * P_TILE + tl.arange(0, P_TILE), tl.program_id(2) * N_TILE + tl.arange(0, N_TILE)
    x += b * x_b + h * x_h
    B += b * B_b + h // share * B_g
    state = tl.zeros((N_TILE, P_TILE), tl.float32)
    if initial_state is not None:
        start = initial_state + b * start_b + h * P * N
        state += load_state(start, n, p, N, P, 1, N).to(tl.float32)
    for chunk in range(chunks):
        t = chunk * Q + tl.arange(0, Q)
        x_tile, B_tile = load_tile(x, t, p, x_l, L, P), load_tile(B, t, n, B_l, L, N)
        if starts is not None:
            store_state(starts + ((b * chunks + chunk) * heads + h) * P * N, state, n, p, N, P, P, 1)
        place = ((b * heads + h) * chunks + chunk) * Q
        whole = exp(tl.load(totals + place + Q - 1), EXACT)
        i = tl.arange(0, Q)
        weight = tl.load(steps + place + i) * to_end(totals, rests, place, i, Q, EXACT)
        put = x_tile.to(tl.float32) * weight[:, None]
        state = product_onto(state * whole, tl.trans(B_tile), put, DOT, PRECISION)
    if final is not None:
        store_state(final + (b * heads + h) * P * N, state, n, p, N, P, 1, N)


@triton.jit(do_not_specialize=["chunks"])
def walk_gradients(
    dy, C, totals, d_final, ends, d_start, d_offset,
    dy_b, dy_l, dy_h, C_b, C_l, C_g, L, chunks, heads, share,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, P_TILE: tl.constexpr, N_TILE: tl.constexpr,
    CARRY: tl.constexpr, EXACT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the states at the chunks' ends, and, (B, H, P, N), of the initial state and of the state offset,
    one a row; what is None is not made. CARRY: whether the first or second is."""
    b, h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    p, n = tl.program_id(1) * P_TILE + tl.arange(0, P_TILE), tl.program_id(2) * N_TILE + tl.arange(0, N_TILE)
    dy += b * dy_b + h * dy_h
    C += b * C_b + h // share * C_g
    whole_state = (b * heads + h) * P * N
    carry, sums = tl.zeros((N_TILE, P_TILE), tl.float32), tl.zeros((N_TILE, P_TILE), tl.float32)
    if d_final is not None:
        carry += load_state(d_final + whole_state, n, p, N, P, 1, N).to(tl.float32)
    for index in range(chunks):
        chunk = chunks - 1 - index
        t = chunk * Q + tl.arange(0, Q)
        tile, C_tile = load_tile(dy, t, p, dy_l, L, P), load_tile(C, t, n, C_l, L, N)
        if CARRY:
            if ends is not None:
                store_state(ends + ((b * chunks + chunk) * heads + h) * P * N, carry, n, p, N, P, P, 1)
            place = totals + ((b * heads + h) * chunks + chunk) * Q
            read = tile.to(tl.float32) * exp(tl.load(place + tl.arange(0, Q)), EXACT)[:, None]
            whole = exp(tl.load(place + Q - 1), EXACT)
            carry = product_onto(carry * whole, tl.trans(C_tile), read, DOT, PRECISION)
        if d_offset is not None:
            # a copy in registers: Triton 3.6 starts a product of prefetched tiles alone, and then lets the prefetch of
            # the next but one overwrite dy's while the product still reads it
            inside = tl.where((t < L)[:, None], tile.to(tl.float32), 0.0)
            sums = product_onto(sums, tl.trans(C_tile), inside, DOT, PRECISION)
    if d_start is not None:
        store_state(d_start + whole_state, carry, n, p, N, P, 1, N)
    if d_offset is not None:
        store_state(d_offset + whole_state, sums, n, p, N, P, 1, N)
