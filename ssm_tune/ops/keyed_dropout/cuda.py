"""Keyed dropout on a GPU: launches, and what autograd sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.cuda.arguments import Arguments, int32s, int64s, pointers
from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import DTYPE_CODES, in_fours, launch, names_memory

_MOST_BLOCKS = 4096


class Dropout(Arguments):
    """dropout.cu."""

    _fields_ = (
        *pointers("x", "rows", "columns", "beside", "out"),
        *int64s("x_row"),
        *int32s("x_step", "length", "width", "parts", "positions", "threshold"),
    )


def dropout_kernel(name: str, dtype: torch.dtype) -> Kernel:
    return Kernel.of(name, {"DTYPE": DTYPE_CODES[dtype]}, "keyed_dropout/dropout")


def _launch(
    name: str, x: Tensor, rows: Tensor, columns: Tensor, beside: Tensor | None, out: Tensor, threshold: int
) -> None:
    """x: (B, L, D) in the forward, of which the strides count; the gradients (P, B, L, D), contiguous, in the
    backward."""
    rows, columns = rows.contiguous(), columns.contiguous()
    parts, width = columns.shape
    arguments = Dropout(
        x=x,
        rows=rows,
        columns=columns,
        beside=beside,
        out=out,
        x_row=x.stride(0) if x.dim() == 3 else 0,
        x_step=x.stride(1) if x.dim() == 3 else 0,
        length=rows.shape[1],
        width=width,
        parts=parts,
        positions=rows.numel(),
        threshold=threshold,
    )
    blocks = min(-(-rows.numel() * width // 1024), _MOST_BLOCKS)
    launch(dropout_kernel(name, x.dtype), (blocks, 1, 1), 256, 0, arguments, x.device)


@names_memory("keyed_dropout")
def run_forward(x: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> Tensor:
    """``keyed_dropout`` with its share as a threshold of the hash: x (B, L, D) -> (P, B, L, D)."""
    out = x.new_empty(columns.shape[0], *x.shape)
    _launch("dropout_forward", in_fours(x), rows, columns, None, out, threshold)
    return out


@names_memory("keyed_dropout, backward")
def run_backward(dout: Tensor, rows: Tensor, columns: Tensor, threshold: int, dx: Tensor, more: bool) -> None:
    """Write x's gradient to ``dx`` (B, L, D), contiguous; if there is ``more``, add it to what is there."""
    _launch("dropout_backward", dout.contiguous(), rows, columns, dx if more else None, dx, threshold)


class DropoutWithInput(torch.autograd.Function):
    """The copies, and x for its other reader, to whose gradient the dropout's own is added in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows, columns)
        ctx.threshold = threshold
        ctx.set_materialize_grads(False)
        return run_forward(x, rows, columns, threshold), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("keyed_dropout")
        dout, dx = grads
        if dout is not None:
            more = dx is not None
            dx = dout.new_empty(dout.shape[1:]) if dx is None else dx.contiguous()
            rows, columns = ctx.saved_tensors
            run_backward(dout, rows, columns, ctx.threshold, dx, more)
        return dx, None, None, None
