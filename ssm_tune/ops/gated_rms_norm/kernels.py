"""Triton kernels of the gated norm: a program has one group of channels, of one row or of every so many rows."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gate_and_slope(z):
    """silu(z) and its derivative."""
    sigmoid = 1.0 / (1.0 + tl.exp(-z))
    gate = z * sigmoid
    return gate, sigmoid + gate * (1.0 - sigmoid)


@triton.jit
def norm_forward(y, z, weight, out, y_row, z_row, eps, D, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """out (rows, D) from y and z, (rows, D) with rows y_row and z_row apart; WIDTH: channels of a group."""
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, TILE)
    inside, column = i < WIDTH, tl.program_id(1) * WIDTH + i
    gate, _ = gate_and_slope(tl.load(z + row * z_row + column, mask=inside, other=0.0).to(tl.float32))
    gated = tl.load(y + row * y_row + column, mask=inside, other=0.0).to(tl.float32) * gate
    scale = tl.rsqrt(tl.sum(gated * gated, 0) / WIDTH + eps)
    normed = gated * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * D + column, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward(
    d_out,
    y,
    z,
    weight,
    dy,
    dz,
    d_weight,
    out_row,
    y_row,
    z_row,
    dz_row,
    rows,
    eps,
    D,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """dy (rows, D), dz with rows dz_row apart, and d_weight (programs, D), float32, to be summed over programs; what is
    None is not made."""
    first, i = tl.program_id(0), tl.arange(0, TILE)
    inside, column = i < WIDTH, tl.program_id(1) * WIDTH + i
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    sums = tl.zeros((TILE,), tl.float32)
    for number in range(first, rows, tl.num_programs(0)):
        row = tl.cast(number, tl.int64)
        gate, slope = gate_and_slope(tl.load(z + row * z_row + column, mask=inside, other=0.0).to(tl.float32))
        value = tl.load(y + row * y_row + column, mask=inside, other=0.0).to(tl.float32)
        through = tl.load(d_out + row * out_row + column, mask=inside, other=0.0).to(tl.float32)
        gated = value * gate
        scale = tl.rsqrt(tl.sum(gated * gated, 0) / WIDTH + eps)
        normed = gated * scale
        if d_weight is not None:
            sums += through * normed
        through *= factor
        d_gated = (through - normed * (tl.sum(through * normed, 0) / WIDTH)) * scale
        if dy is not None:
            tl.store(dy + row * D + column, (d_gated * gate).to(dy.dtype.element_ty), mask=inside)
        if dz is not None:
            there = dz + row * dz_row + column
            tl.store(there, (d_gated * value * slope).to(dz.dtype.element_ty), mask=inside)
    if d_weight is not None:
        tl.store(d_weight + first * D + column, sums, mask=inside)
