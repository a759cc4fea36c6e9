"""Keyed dropout on a GPU: launches, and the custom ops that autograd sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.compiler import Kernel
from ssm_tune.ops.launch import (
    DTYPE_CODES,
    address,
    in_fours,
    launch,
    names_memory,
    once_differentiable,
    refuse_a_second_derivative,
)

_MOST_BLOCKS = 4096


def dropout_kernel(name: str, dtype: torch.dtype) -> Kernel:
    return Kernel.of(name, {"DTYPE": DTYPE_CODES[dtype]}, "dropout")


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


def run_backward_alone(dout: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> Tensor:
    """x's gradient, in memory of its own."""
    dx = dout.new_empty(dout.shape[1:])
    run_backward(dout, rows, columns, threshold, dx, False)
    return dx


dropout = torch.library.custom_op(
    "ssm_tune::keyed_dropout", run_forward, mutates_args=(), device_types="cuda",
    schema="(Tensor x, Tensor rows, Tensor columns, int threshold) -> Tensor",
)  # fmt: skip
_backward = torch.library.custom_op(
    "ssm_tune::keyed_dropout_backward", run_backward_alone, mutates_args=(), device_types="cuda",
    schema="(Tensor dout, Tensor rows, Tensor columns, int threshold) -> Tensor",
)  # fmt: skip


@dropout.register_fake
def _(x: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> Tensor:
    return x.new_empty(columns.shape[0], *x.shape)


@_backward.register_fake
def _(dout: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> Tensor:
    return dout.new_empty(dout.shape[1:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rows, columns, ctx.threshold = inputs
    ctx.save_for_backward(rows, columns)


def _differentiate(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    return _backward(dout, *ctx.saved_tensors, ctx.threshold), None, None, None


dropout.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(once_differentiable("keyed_dropout"))


class DropoutBeside(torch.autograd.Function):
    """``dropout``, and x for its other reader, whose gradient the dropout's own is added to where it lies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows, columns)
        ctx.threshold = threshold
        ctx.set_materialize_grads(False)
        return dropout(x, rows, columns, threshold), x.view_as(x)

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
