"""What the Triton kernels of the state space dual scan share: exponentials, decays, and products of tiles.

``EXACT`` (float32 and float16 inputs): sums of exponents are held as two floats, and exponentials put back the rounding
of their argument. bfloat16's own rounding is far above that. DOT and PRECISION: products of float32 inputs run as three
of tf32's, those of float16 inputs as one.

Vectors of a row and head, as ``step_sizes`` makes them, lie at (B, H, T), T being whole chunks.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exp(value, EXACT: tl.constexpr):
    """e^value, for a value of 80 at most."""
    if EXACT:
        value = tl.maximum(value, -200.0)
        power = value * 1.4426950216293335
        lost = tl.fma(value, 1.4426950216293335, -power) + value * 1.925963033500886e-08
        return tl.exp2(power) * (1.0 + lost * 0.6931471805599453)
    return tl.exp(value)


@triton.jit
def softplus(value):
    """log(1 + e^value), and its derivative; log1p by the series of 2 artanh, which keeps the small ones."""
    small = exp(-tl.abs(value), True)
    s = small / (2.0 + small)
    square = s * s
    series = 1.0 / 15
    series = series * square + 1.0 / 13
    series = series * square + 1.0 / 11
    series = series * square + 1.0 / 9
    series = series * square + 1.0 / 7
    series = series * square + 1.0 / 5
    series = series * square + 1.0 / 3
    series = series * square + 1.0
    share = 1.0 / (1.0 + small)
    slope = tl.where(value >= 0, share, small * share)
    return tl.maximum(value, 0.0) + 2.0 * s * series, slope


@triton.jit
def decay_from_to(totals, rests, place, source, target, EXACT: tl.constexpr):
    """Decays from positions ``source`` to ``target`` of the chunk that starts at ``place``; 0 where target < source.

    source and target: indices in the chunk, as a row and a column, in either order.
    """
    apart = tl.load(totals + place + target) - tl.load(totals + place + source)
    if EXACT:
        apart += tl.load(rests + place + target) - tl.load(rests + place + source)
    return exp(tl.where(target >= source, apart, float("-inf")), EXACT)


@triton.jit
def to_end(totals, rests, place, i, Q: tl.constexpr, EXACT: tl.constexpr):
    """The decays from positions i of the chunk that starts at ``place`` to its end."""
    apart = tl.load(totals + place + Q - 1) - tl.load(totals + place + i)
    if EXACT:
        apart += tl.load(rests + place + Q - 1) - tl.load(rests + place + i)
    return exp(apart, EXACT)


@triton.jit
def rounded(value, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """In DOT; for tf32, whose products cut off what it does not hold, rounded to its 10 bits."""
    value = value.to(DOT)
    if PRECISION == "tf32":
        bits = value.to(tl.int32, bitcast=True)
        value = ((bits + 4096) & -8192).to(tl.float32, bitcast=True)
    return value


@triton.jit
def product(left, right, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """left @ right with both rounded to DOT, summed in float32."""
    left, right = rounded(left, DOT, PRECISION), rounded(right, DOT, PRECISION)
    return tl.dot(left, right, input_precision=PRECISION)


@triton.jit
def product_onto(sums, left, right, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """sums + left @ right."""
    left, right = rounded(left, DOT, PRECISION), rounded(right, DOT, PRECISION)
    return tl.dot(left, right, sums, input_precision=PRECISION)


@triton.jit
def load_tile(pointer, rows, columns, stride, ROWS, COLUMNS: tl.constexpr):
    """(rows, columns) of a matrix with contiguous rows, 0 outside of its ROWS and COLUMNS."""
    inside = rows[:, None] < ROWS
    if (columns.shape[0] - 1) & COLUMNS:  # not whole tiles
        inside = inside & (columns[None, :] < COLUMNS)
    return tl.load(pointer + rows[:, None].to(tl.int64) * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_tile(pointer, tile, rows, columns, stride, ROWS, COLUMNS: tl.constexpr):
    inside = rows[:, None] < ROWS
    if (columns.shape[0] - 1) & COLUMNS:  # not whole tiles
        inside = inside & (columns[None, :] < COLUMNS)
    places = pointer + rows[:, None].to(tl.int64) * stride + columns[None, :]
    tl.store(places, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def load_state(pointer, n, p, N: tl.constexpr, P: tl.constexpr, N_STRIDE: tl.constexpr, P_STRIDE: tl.constexpr):
    """The tile (n, p) of a head's state, 0 outside of its N states and P channels."""
    places = pointer + n[:, None] * N_STRIDE + p[None, :] * P_STRIDE
    if (n.shape[0] - 1) & N or (p.shape[0] - 1) & P:  # not whole tiles
        return tl.load(places, mask=(n[:, None] < N) & (p[None, :] < P), other=0.0)
    return tl.load(places)


@triton.jit
def store_state(pointer, tile, n, p, N: tl.constexpr, P: tl.constexpr, N_STRIDE: tl.constexpr, P_STRIDE: tl.constexpr):
    places = pointer + n[:, None] * N_STRIDE + p[None, :] * P_STRIDE
    tl.store(places, tile.to(pointer.dtype.element_ty), mask=(n[:, None] < N) & (p[None, :] < P))
