"""The causal convolution on a GPU: launches, and what autograd sees."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import (
    DTYPE_CODES,
    address,
    code,
    gradients_of,
    in_fours,
    launch,
    names_memory,
    sum_partials,
)
from ssm_tune.ops.packed_gradients import whole_of

SPANS = {"conv_forward": (4, 8), "conv_backward": (4, 8, 16)}
"""Positions of a thread: few where only more threads fill the GPU, though each reads three positions more."""
WEIGHT_SPANS = (8, 16, 32, 64)
"""The same where the weight's gradient is wanted: the more, the fewer partial sums."""
AHEAD = 4
"""Positions that the backward reads ahead."""
BLOCKS = 2.75
"""Blocks a processor that fill the GPU."""
WIDTH = 4

_FIELDS = "9P4q8i"


def conv_kernel(name: str, dtype: torch.dtype, span: int, x: bool = True, weight: bool = False) -> Kernel:
    macros = {"DTYPE": DTYPE_CODES[dtype], "SPAN": span, "AHEAD": AHEAD, "D_X": int(x), "D_WEIGHT": int(weight)}
    return Kernel.of(name, macros, "causal_conv1d/conv1d")


def _grid(x: Tensor, span: int) -> tuple[int, int, int]:
    return (-(-x.shape[2] // 512), -(-x.shape[1] // span), x.shape[0])


def _span(x: Tensor, spans: tuple[int, ...]) -> int:
    """The longest of ``spans`` that leaves enough blocks to fill the GPU, else the shortest."""
    wanted = BLOCKS * torch.cuda.get_device_properties(x.device).multi_processor_count
    return next((span for span in reversed(spans) if math.prod(_grid(x, span)) >= wanted), spans[0])


def _ends(
    x: Tensor, initial: Tensor | None, dout: Tensor, dx: Tensor, weight: Tensor, bias: Tensor | None
) -> list[int]:
    flowing = x, x if initial is None else initial, dout, dx
    return [*(tensor.stride(0) for tensor in flowing), *(tensor.stride(1) for tensor in flowing),
            x.shape[1], x.shape[2], code(weight), code(bias)]  # fmt: skip


@names_memory("causal_conv1d")
def run_forward(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    x, weight = in_fours(x), weight.contiguous()
    initial_state = None if initial_state is None else in_fours(initial_state)
    span = _span(x, SPANS["conv_forward"])
    launch(conv_kernel("conv_forward", x.dtype, span), _grid(x, span), 128, 0, _FIELDS,
           [*map(address, (x, initial_state, None, weight, bias, out, None, None, None)),
            *_ends(x, initial_state, x, x, weight, bias)], x.device)  # fmt: skip
    return out


@names_memory("causal_conv1d, backward")
def run_backward(
    dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, dx: Tensor | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients that are ``wanted`` of weight, bias and initial_state; that of x goes to ``dx``, if there is one:
    contiguous, or a slice of such a tensor's last dimension."""
    want_weight, want_bias, want_initial = wanted
    sums = want_weight or want_bias
    span = _span(x, WEIGHT_SPANS if sums else SPANS["conv_backward"])
    _, dweight, dbias, dinitial = gradients_of((x, weight, bias, initial_state), [False, *wanted])
    grid = _grid(x, span)
    partial = x.new_empty(grid[1] * grid[2], WIDTH + 1, x.shape[2], dtype=torch.float32) if sums else None
    if dx is None and want_initial:  # made by the same threads
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    to = x if dx is None else dx
    dout, x, weight = in_fours(dout), in_fours(x), weight.contiguous()
    initial_state = None if initial_state is None else in_fours(initial_state)
    launch(conv_kernel("conv_backward", x.dtype, span, dx is not None, sums), grid, 128, 0, _FIELDS,
           [*map(address, (x, initial_state, dout, weight, bias, None, dx, dinitial if want_initial else None,
                           partial)), *_ends(x, initial_state, dout, to, weight, bias)], x.device)  # fmt: skip
    if partial is not None:
        total = torch.empty_like(partial[0])
        sum_partials([(partial, total)])
        if want_weight:
            dweight.copy_(total[:WIDTH].t())
        if want_bias:
            dbias.copy_(total[WIDTH])
    return dweight, dbias, dinitial


class CausalConv(torch.autograd.Function):
    """The first ``channels`` of x (B, L, W) through the convolution, and the others as they are.

    The gradient of the others, where it comes in memory as wide as x, stays there, and that of the first is put beside
    it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, channels: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight, bias, initial_state)
        ctx.channels = channels
        ctx.set_materialize_grads(False)
        return run_forward(x[..., :channels], weight, bias, initial_state), x[..., channels:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("causal_conv1d")
        (dout, dothers), wanted, channels = grads, list(ctx.needs_input_grad[:4]), ctx.channels
        x, weight, bias, start = ctx.saved_tensors
        dx = None
        if wanted[0]:
            dx = whole_of([dothers], [channels], x.shape[2])
            if dx is None:
                dx = torch.empty_like(x, memory_format=torch.contiguous_format)
                if channels < x.shape[2]:
                    dx[..., channels:].copy_(torch.zeros_like(x[..., channels:]) if dothers is None else dothers)
        x = x[..., :channels]
        others = run_backward(torch.zeros_like(x) if dout is None else dout, x, weight, bias, start,
                              None if dx is None else dx[..., :channels], wanted[1:])  # fmt: skip
        return dx, *(grad if want else None for grad, want in zip(others, wanted[1:], strict=True)), None


def run_step(
    x: Tensor, before: Tensor, state: Tensor, source: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """One position: x (R, D); row source[r] of the state ``before`` (*, 3, D) moves on to row r of ``state`` (R, 3, D),
    both contiguous -> (R, D)."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    x, weight = in_fours(x.unsqueeze(1)), weight.contiguous()
    rows, _, channels = x.shape
    kernel = Kernel.of("conv_step", {"DTYPE": DTYPE_CODES[x.dtype]}, "selective_scan/step")
    launch(kernel, (-(-channels // 512), rows, 1), 128, 0,
           "7Pq4i", [*map(address, (x, before, state, out, source, weight, bias)), x.stride(0), channels, code(weight),
                     code(bias), 0], x.device)  # fmt: skip
    return out
