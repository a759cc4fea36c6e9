"""Triton kernels of the work within chunks: one chunk and some heads of a group a program.

``chunk_outputs`` makes y, ``head_gradients`` the gradients that each head has of its own, ``shared_gradients`` those of
B and C, which all heads of a group share: they are added over a program's heads in registers, and what belongs to pairs
of positions is added before the product with B or C. A pair is t >= s, where t reads what s has put in.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_tune.ops.state_space_dual.gpu.tiles import (
    decay_from_to,
    exp,
    load_state,
    load_tile,
    product,
    product_onto,
    store_tile,
    to_end,
)


@triton.jit
def similarity(left, right, t, left_l, right_l, L, N: tl.constexpr, N_TILE: tl.constexpr, DOT: tl.constexpr,
               PRECISION: tl.constexpr):  # fmt: skip
    """The products of all pairs of a chunk's rows of two (L, N)."""
    sums = tl.zeros((t.shape[0], t.shape[0]), tl.float32)
    for part in tl.static_range((N + N_TILE - 1) // N_TILE):
        n = part * N_TILE + tl.arange(0, N_TILE)
        rows, columns = load_tile(left, t, n, left_l, L, N), load_tile(right, t, n, right_l, L, N)
        sums = product_onto(sums, rows, tl.trans(columns), DOT, PRECISION)
    return sums


@triton.jit(do_not_specialize=["chunks", "each", "splits"])
def chunk_outputs(
    x, B, C, D, steps, totals, rests, starts, state_offset, output_offset, y,
    x_b, x_l, x_h, B_b, B_l, B_g, C_b, C_l, C_g, starts_b, starts_c,
    L, chunks, heads, share, each, splits,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, P_TILE: tl.constexpr, N_TILE: tl.constexpr,
    P_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr, EXACT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y (B, L, H, P), from the states at the chunks' starts; None where these are 0."""
    b, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    group, split = tl.program_id(1) // splits, tl.program_id(1) % splits
    i = tl.arange(0, Q)
    t = chunk * Q + i
    B += b * B_b + group * B_g
    C += b * C_b + group * C_g
    similar = similarity(C, B, t, C_l, B_l, L, N, N_TILE, DOT, PRECISION)
    n = tl.arange(0, N_TILE)
    C_tile = load_tile(C, t, n, C_l, L, N)
    first = group * share + split * each
    for h in range(first, tl.minimum(first + each, (group + 1) * share)):
        place = ((b * heads + h) * chunks + chunk) * Q
        decays = decay_from_to(totals, rests, place, i[None, :], i[:, None], EXACT)
        scores = similar * decays * tl.load(steps + place + i)[None, :]
        for part in tl.static_range((P + P_TILE - 1) // P_TILE):
            p = part * P_TILE + tl.arange(0, P_TILE)
            x_tile = load_tile(x + b * x_b + h * x_h, t, p, x_l, L, P)
            out, by_start = product(scores, x_tile, DOT, PRECISION), tl.zeros((Q, P_TILE), tl.float32)
            for n_part in tl.static_range((N + N_TILE - 1) // N_TILE):
                if N > N_TILE:
                    n = n_part * N_TILE + tl.arange(0, N_TILE)
                    C_tile = load_tile(C, t, n, C_l, L, N)
                if starts is not None:
                    start = starts + b * starts_b + chunk * starts_c + h * P * N
                    start = load_state(start, n, p, N, P, N_STRIDE, P_STRIDE)
                    by_start = product_onto(by_start, C_tile, start, DOT, PRECISION)
                if state_offset is not None:
                    offset = load_state(state_offset + h * P * N, n, p, N, P, 1, N)
                    out = product_onto(out, C_tile, offset, DOT, PRECISION)
            if starts is not None:
                out += by_start * exp(tl.load(totals + place + i), EXACT)[:, None]
            if D is not None:
                out += tl.load(D + h).to(tl.float32) * x_tile.to(tl.float32)
            if output_offset is not None:
                out += tl.load(output_offset + h * P + p, mask=p < P, other=0.0).to(tl.float32)[None, :]
            store_tile(y + (b * L * heads + h) * P, out, t, p, heads * P, L, P)


@triton.jit
def sums_over_pairs(pairs, i, EXACT: tl.constexpr, CLOSE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """What ``step_gradients`` takes as d_earlier and, beside other terms, as d_later, from pairs (s, t) with s < t."""
    if CLOSE:  # at k, the sum over t >= k > s: nothing cancels
        later = tl.where(i[:, None] >= i[None, :], 1.0, 0.0)
        if EXACT:
            from_k = tl.dot(pairs, later, input_precision="tf32x3")
        else:
            from_k = product(pairs, later, DOT, PRECISION)
        return tl.sum(tl.where(i[None, :] > i[:, None], from_k, 0.0), 0), tl.zeros_like(i).to(tl.float32)
    else:
        return tl.sum(pairs, 1), tl.sum(pairs, 0)


@triton.jit(do_not_specialize=["chunks", "each", "splits"])
def head_gradients(
    dy, x, B, C, D, steps, totals, rests, starts, ends, dx, dD, d_output, d_step, d_later, d_earlier, d_put, d_through,
    dx_b, dx_l, dy_b, dy_l, dy_h, x_b, x_l, x_h, B_b, B_l, B_g, C_b, C_l, C_g, starts_b, starts_c, ends_b, ends_c,
    L, chunks, heads, share, each, splits,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, P_TILE: tl.constexpr, N_TILE: tl.constexpr,
    P_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr, EXACT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    CLOSE: tl.constexpr,
):  # fmt: skip
    """dx, (B, L, H, P) with rows dx_b and positions dx_l apart; dD (B chunks, H) and d_output (B chunks, H, P), both to
    be summed over their first dimension; and vectors for ``step_gradients``. What is None is not made.

    ``starts``: states at the chunks' starts, ``ends``: gradients of those at their ends; None where these are 0.
    Positions s are rows here, t columns.
    """
    row = tl.program_id(0)
    b, chunk = (row // chunks).to(tl.int64), row % chunks
    group, split = tl.program_id(1) // splits, tl.program_id(1) % splits
    i = tl.arange(0, Q)
    t = chunk * Q + i
    B += b * B_b + group * B_g
    C += b * C_b + group * C_g
    similar = similarity(B, C, t, B_l, C_l, L, N, N_TILE, DOT, PRECISION)
    n = tl.arange(0, N_TILE)
    B_tile, C_tile = load_tile(B, t, n, B_l, L, N), load_tile(C, t, n, C_l, L, N)
    first = group * share + split * each
    for h in range(first, tl.minimum(first + each, (group + 1) * share)):
        place = ((b * heads + h) * chunks + chunk) * Q
        scores = similar * decay_from_to(totals, rests, place, i[:, None], i[None, :], EXACT)
        step = tl.load(steps + place + i)
        pairs, put, read = tl.zeros((Q, Q), tl.float32), tl.zeros((Q,), tl.float32), tl.zeros((Q,), tl.float32)
        through, d_skip = 0.0, 0.0
        for part in tl.static_range((P + P_TILE - 1) // P_TILE):
            p = part * P_TILE + tl.arange(0, P_TILE)
            x_tile = load_tile(x + b * x_b + h * x_h, t, p, x_l, L, P)
            dy_tile = load_tile(dy + b * dy_b + h * dy_h, t, p, dy_l, L, P)
            du = product(scores, dy_tile, DOT, PRECISION)
            by_end, by_start = tl.zeros((Q, P_TILE), tl.float32), tl.zeros((Q, P_TILE), tl.float32)
            for n_part in tl.static_range((N + N_TILE - 1) // N_TILE):
                if N > N_TILE:
                    n = n_part * N_TILE + tl.arange(0, N_TILE)
                    B_tile, C_tile = load_tile(B, t, n, B_l, L, N), load_tile(C, t, n, C_l, L, N)
                if ends is not None:
                    end = ends + b * ends_b + chunk * ends_c + h * P * N
                    end = load_state(end, n, p, N, P, N_STRIDE, P_STRIDE)
                    by_end = product_onto(by_end, B_tile, end, DOT, PRECISION)
                if starts is not None and d_step is not None:
                    start = starts + b * starts_b + chunk * starts_c + h * P * N
                    start = load_state(start, n, p, N, P, N_STRIDE, P_STRIDE)
                    by_start = product_onto(by_start, C_tile, start, DOT, PRECISION)
                    if d_through is not None:
                        through += tl.sum(start.to(tl.float32) * end.to(tl.float32))
            if ends is not None:
                by_end *= to_end(totals, rests, place, i, Q, EXACT)[:, None]
                du += by_end
                if d_put is not None:
                    put += tl.sum(by_end * x_tile.to(tl.float32), 1)
            if dx is not None:
                du *= step[:, None]
                if D is not None:
                    du += tl.load(D + h).to(tl.float32) * dy_tile.to(tl.float32)
                store_tile(dx + b * dx_b + h * P, du, t, p, dx_l, L, P)
            if d_step is not None:
                pairs = product_onto(pairs, x_tile, tl.trans(dy_tile), DOT, PRECISION)
                if starts is not None:
                    read += tl.sum(by_start * dy_tile.to(tl.float32), 1)
            if dD is not None:
                d_skip += tl.sum(dy_tile.to(tl.float32) * x_tile.to(tl.float32))
            if d_output is not None:
                there = d_output + (row.to(tl.int64) * heads + h) * P + p
                tl.store(there, tl.sum(dy_tile.to(tl.float32), 0), mask=p < P)
        if dD is not None:
            tl.store(dD + row * heads + h, d_skip)
        if d_step is not None:
            pairs *= scores
            tl.store(d_step + place + i, tl.sum(pairs, 1) + put)
            pairs = tl.where(i[None, :] > i[:, None], pairs * step[:, None], 0.0)
            read *= exp(tl.load(totals + place + i), EXACT)
            earlier, later = sums_over_pairs(pairs, i, EXACT, CLOSE, DOT, PRECISION)
            tl.store(d_earlier + place + i, earlier)
            tl.store(d_later + place + i, read + later)
            if d_put is not None:
                tl.store(d_put + place + i, put * step)
            if d_through is not None:
                tl.store(d_through + (b * heads + h) * chunks + chunk, through)


@triton.jit(do_not_specialize=["chunks", "each", "splits"])
def shared_gradients(
    dy, x, B, C, steps, totals, rests, state_offset, starts, ends, dB, dC,
    dy_b, dy_l, dy_h, x_b, x_l, x_h, B_b, B_l, B_g, C_b, C_l, C_g, starts_b, starts_c, ends_b, ends_c,
    L, chunks, heads, share, each, splits,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, P_TILE: tl.constexpr, N_TILE: tl.constexpr,
    P_STRIDE: tl.constexpr, N_STRIDE: tl.constexpr, EXACT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dB and dC (splits, B, L, G, N), to be summed over splits; what is None is not made. ``starts``, ``ends``: as
    ``head_gradients`` takes them. Positions t are rows here, s columns."""
    rows = tl.num_programs(0) // chunks
    b, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    group, split = tl.program_id(1) // splits, tl.program_id(1) % splits
    i, n = tl.arange(0, Q), tl.program_id(2) * N_TILE + tl.arange(0, N_TILE)
    t = chunk * Q + i
    over_heads = tl.zeros((Q, Q), tl.float32)
    dB_tile, dC_tile = tl.zeros((Q, N_TILE), tl.float32), tl.zeros((Q, N_TILE), tl.float32)
    first = group * share + split * each
    for h in range(first, tl.minimum(first + each, (group + 1) * share)):
        place = ((b * heads + h) * chunks + chunk) * Q
        pairs = tl.zeros((Q, Q), tl.float32)
        for part in tl.static_range((P + P_TILE - 1) // P_TILE):
            p = part * P_TILE + tl.arange(0, P_TILE)
            x_tile = load_tile(x + b * x_b + h * x_h, t, p, x_l, L, P)
            dy_tile = load_tile(dy + b * dy_b + h * dy_h, t, p, dy_l, L, P)
            pairs = product_onto(pairs, dy_tile, tl.trans(x_tile), DOT, PRECISION)
            if dB is not None and ends is not None:
                weight = tl.load(steps + place + i) * to_end(totals, rests, place, i, Q, EXACT)
                weighted = x_tile.to(tl.float32) * weight[:, None]
                end = ends + b * ends_b + chunk * ends_c + h * P * N
                end = load_state(end, n, p, N, P, N_STRIDE, P_STRIDE)
                dB_tile = product_onto(dB_tile, weighted, tl.trans(end), DOT, PRECISION)
            if dC is not None and starts is not None:
                weighted = dy_tile.to(tl.float32) * exp(tl.load(totals + place + i), EXACT)[:, None]
                start = starts + b * starts_b + chunk * starts_c + h * P * N
                start = load_state(start, n, p, N, P, N_STRIDE, P_STRIDE)
                dC_tile = product_onto(dC_tile, weighted, tl.trans(start), DOT, PRECISION)
            if dC is not None and state_offset is not None:
                offset = load_state(state_offset + h * P * N, n, p, N, P, 1, N)
                dC_tile = product_onto(dC_tile, dy_tile, tl.trans(offset), DOT, PRECISION)
        pairs *= decay_from_to(totals, rests, place, i[None, :], i[:, None], EXACT)
        over_heads += pairs * tl.load(steps + place + i)[None, :]
    there = ((split * rows + b) * L * (heads // share) + group) * N
    if dC is not None:
        B_tile = load_tile(B + b * B_b + group * B_g, t, n, B_l, L, N)
        dC_tile = product_onto(dC_tile, over_heads, B_tile, DOT, PRECISION)
        store_tile(dC + there, dC_tile, t, n, heads // share * N, L, N)
    if dB is not None:
        C_tile = load_tile(C + b * C_b + group * C_g, t, n, C_l, L, N)
        dB_tile = product_onto(dB_tile, tl.trans(over_heads.to(DOT)), C_tile, DOT, PRECISION)
        store_tile(dB + there, dB_tile, t, n, heads // share * N, L, N)
