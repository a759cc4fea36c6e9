"""Keyed dropout on a GPU: launches, and what autograd sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import (
    DTYPE_CODES,
    address,
    in_fours,
    launch,
    names_memory,
)

_MOST_BLOCKS = 4096


def dropout_kernel(name: str, dtype: torch.dtype) -> Kernel:
    return Kernel.of(name, {"DTYPE": DTYPE_CODES[dtype]}, "keyed_dropout/dropout")


def _launch(
    name: str, x: Tensor, rows: Tensor, columns: Tensor, beside: Tensor | None, out: Tensor, threshold: int,
    strides: list[int],
) -> None:  # fmt: skip
    rows, columns = rows.contiguous(), columns.contiguous()
    parts, width = columns.shape
    blocks = min(-(-rows.numel() * width // 1024), _MOST_BLOCKS)
    launch(
        dropout_kernel(name, x.dtype), (blocks, 1, 1), 256, 0, "5Pq6i",
        [*map(address, (x, rows, columns, beside, out)), *strides, rows.shape[1], width, parts, rows.numel(),
         threshold],
        x.device,
    )  # fmt: skip


@names_memory("keyed_dropout")
def run_forward(x: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> Tensor:
    out = x.new_empty(columns.shape[0], *x.shape)
    x = in_fours(x)
    _launch("dropout_forward", x, rows, columns, None, out, threshold, [x.stride(0), x.stride(1)])
    return out


@names_memory("keyed_dropout, backward")
def run_backward(dout: Tensor, rows: Tensor, columns: Tensor, threshold: int, dx: Tensor, more: bool) -> None:
    """Writes x's gradient to ``dx``, contiguous, or adds it to what is there if there is ``more``."""
    dout = dout.contiguous()
    _launch("dropout_backward", dout, rows, columns, dx if more else None, dx, threshold, [0, 0])


class DropoutBeside(torch.autograd.Function):
    """The copies, and x for its other reader, whose gradient the dropout's own is added to where it lies."""

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
