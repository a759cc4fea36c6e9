"""Keyed dropout on a GPU: one launch for a forward, the same for a backward, and no mask kept in between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.compiler import Kernel
from ssm_tune.ops.launch import DTYPE_CODES, address, launch, names_memory

_BLOCKS = 4096
_FIELDS = "4Pq4i"


def dropout_kernel(dtype: torch.dtype, vector: int) -> Kernel:
    return Kernel.of("keyed_dropout", {"DTYPE": DTYPE_CODES[dtype], "VECTOR": vector})


@names_memory("keyed_dropout")
def run(x: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> Tensor:
    if x.stride(2) != 1 or x.stride(0) != x.shape[1] * x.stride(1):  # rows must lie at one distance from each other
        x = x.contiguous()
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    width, distance = x.shape[2], x.stride(1)
    fours = width % 4 == 0 and distance % 4 == 0 and x.data_ptr() % (4 * x.element_size()) == 0
    vector = 4 if fours else 1
    blocks = -(-(x.numel() // vector) // 256)
    launch(
        dropout_kernel(x.dtype, vector), (min(blocks, _BLOCKS), 1, 1), 256, 0, _FIELDS,
        [*map(address, (x, out, rows, columns)), distance, rows.numel(), width, threshold, 0], x.device,
    )  # fmt: skip
    return out


drop = torch.library.custom_op(
    "ssm_tune::keyed_dropout", run, mutates_args=(), device_types="cuda",
    schema="(Tensor x, Tensor rows, Tensor columns, int threshold) -> Tensor",
)  # fmt: skip


@drop.register_fake
def _(x: Tensor, rows: Tensor, columns: Tensor, threshold: int) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rows, columns, ctx.threshold = inputs
    ctx.save_for_backward(rows, columns)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return drop(grad, *ctx.saved_tensors, ctx.threshold), None, None, None


drop.register_autograd(_differentiate, setup_context=_save)
