"""The causal convolution on a GPU: launches, and what autograd sees."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.cuda.arguments import Arguments, int32s, int64s, pointers
from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import DTYPE_CODES, dtype_code, gradients_of, in_fours, launch, names_memory
from ssm_tune.ops.cuda.sums import sum_partials
from ssm_tune.ops.packed_gradients import packed_base

SPANS = {"conv_forward": (4, 8), "conv_backward": (4, 8, 16)}
"""Positions of a thread: few where only more threads fill the GPU, though each reads three positions more."""
WEIGHT_SPANS = (8, 16, 32, 64)
"""The same where the weight's gradient is wanted: the more, the fewer partial sums."""
AHEAD = 4
"""Positions that the backward reads ahead."""
BLOCKS = 2.75
"""Blocks a processor that fill the GPU."""
WIDTH = 4


class Conv(Arguments):
    """conv1d.cu."""

    _fields_ = (
        *pointers("x", "initial", "dout", "weight", "bias", "out", "dx", "dinitial", "dweight"),
        *int64s("x_row", "initial_row", "dout_row", "dx_row"),
        *int32s("x_step", "initial_step", "dout_step", "dx_step", "length", "channels", "weight_type", "bias_type"),
    )


class ConvUpdate(Arguments):
    """conv_update.cu."""

    _fields_ = (
        *pointers("x", "before", "state", "out", "source", "weight", "bias"),
        *int64s("x_row"),
        *int32s("channels", "weight_type", "bias_type"),
    )


def conv_kernel(name: str, dtype: torch.dtype, span: int, x: bool = True, weight: bool = False) -> Kernel:
    macros = {"DTYPE": DTYPE_CODES[dtype], "SPAN": span, "AHEAD": AHEAD, "D_X": int(x), "D_WEIGHT": int(weight)}
    return Kernel.of(name, macros, "causal_conv1d/conv1d")


def update_kernel(dtype: torch.dtype) -> Kernel:
    return Kernel.of("conv_update", {"DTYPE": DTYPE_CODES[dtype]}, "causal_conv1d/conv_update")


def _grid(x: Tensor, span: int) -> tuple[int, int, int]:
    return (-(-x.shape[2] // 512), -(-x.shape[1] // span), x.shape[0])


def _span(x: Tensor, spans: tuple[int, ...]) -> int:
    """The longest of ``spans`` that leaves enough blocks to fill the GPU, else the shortest."""
    wanted = BLOCKS * torch.cuda.get_device_properties(x.device).multi_processor_count
    return next((span for span in reversed(spans) if math.prod(_grid(x, span)) >= wanted), spans[0])


def _shared_arguments(
    x: Tensor, initial: Tensor | None, dout: Tensor, dx: Tensor, weight: Tensor, bias: Tensor | None
) -> dict[str, Any]:
    """Of both directions: what is read, and strides of batch and time in elements; ``dout`` and ``dx`` give strides."""
    start = x if initial is None else initial
    return {
        "x": x,
        "initial": initial,
        "weight": weight,
        "bias": bias,
        "x_row": x.stride(0),
        "initial_row": start.stride(0),
        "dout_row": dout.stride(0),
        "dx_row": dx.stride(0),
        "x_step": x.stride(1),
        "initial_step": start.stride(1),
        "dout_step": dout.stride(1),
        "dx_step": dx.stride(1),
        "length": x.shape[1],
        "channels": x.shape[2],
        "weight_type": dtype_code(weight),
        "bias_type": dtype_code(bias),
    }


@names_memory("causal_conv1d")
def run_forward(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None) -> Tensor:
    """``causal_conv1d`` for K = 4: x (B, L, D), weight (D, 4), bias (D,), initial_state (B, 3, D) -> (B, L, D)."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    x, weight = in_fours(x), weight.contiguous()
    initial_state = None if initial_state is None else in_fours(initial_state)
    span = _span(x, SPANS["conv_forward"])
    shared = _shared_arguments(x, initial_state, x, x, weight, bias)
    arguments = Conv(**shared, out=out, dout=None, dx=None, dinitial=None, dweight=None)
    launch(conv_kernel("conv_forward", x.dtype, span), _grid(x, span), 128, 0, arguments, x.device)
    return out


@names_memory("causal_conv1d, backward")
def run_backward(
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    dx: Tensor | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of weight, bias and initial_state that are ``wanted``, empty where not.

    That of x is written to ``dx``, if there is one: contiguous, or a slice of such a tensor's last dimension.
    """
    want_weight, want_bias, want_initial = wanted
    sums = want_weight or want_bias
    span = _span(x, WEIGHT_SPANS if sums else SPANS["conv_backward"])
    _, dweight, dbias, dinitial = gradients_of((x, weight, bias, initial_state), [False, *wanted])
    grid = _grid(x, span)
    partial = x.new_empty(grid[1] * grid[2], WIDTH + 1, x.shape[2], dtype=torch.float32) if sums else None
    if dx is None and want_initial:  # made by the same threads
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dout, x, weight = in_fours(dout), in_fours(x), weight.contiguous()
    initial_state = None if initial_state is None else in_fours(initial_state)
    shared = _shared_arguments(x, initial_state, dout, x if dx is None else dx, weight, bias)
    arguments = Conv(**shared, dout=dout, dx=dx, dinitial=dinitial if want_initial else None, dweight=partial, out=None)
    launch(conv_kernel("conv_backward", x.dtype, span, dx is not None, sums), grid, 128, 0, arguments, x.device)
    if partial is not None:
        total = torch.empty_like(partial[0])
        sum_partials([(partial, total)])
        if want_weight:
            dweight.copy_(total[:WIDTH].t())
        if want_bias:
            dbias.copy_(total[WIDTH])
    return dweight, dbias, dinitial


class CausalConv(torch.autograd.Function):
    """As many channels of x (B, L, W) as weight has, from number ``first`` on, through the convolution; those before
    and those behind as they are.

    A gradient of the others that is packed in memory as wide as x stays there; the rest is put beside it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, weight, bias, initial_state)
        ctx.first = first
        ctx.set_materialize_grads(False)
        end = first + weight.shape[0]
        return x[..., :first], run_forward(x[..., first:end], weight, bias, initial_state), x[..., end:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("causal_conv1d")
        (dbefore, dout, dbehind), wanted, first = grads, list(ctx.needs_input_grad[:4]), ctx.first
        x, weight, bias, start = ctx.saved_tensors
        end = first + weight.shape[0]
        dx = _beside(x, {0: dbefore, end: dbehind}, {0: first, end: x.shape[2] - end}) if wanted[0] else None
        x = x[..., first:end]
        dout = torch.zeros_like(x) if dout is None else dout
        own = None if dx is None else dx[..., first:end]
        others = run_backward(dout, x, weight, bias, start, own, wanted[1:])
        return dx, *(grad if want else None for grad, want in zip(others, wanted[1:], strict=True)), None


def _beside(x: Tensor, gradients: dict[int, Tensor | None], sizes: dict[int, int]) -> Tensor:
    """Memory for the gradient of x (B, L, W) that holds those of slices, by where they start; what else there is of it
    is left to the caller. ``sizes``: of the slices, whether or not they have a gradient."""
    packed = {}
    for at, gradient in gradients.items():
        if (base := packed_base([gradient], [at], x.shape[2])) is not None:
            packed[at] = base
    taken = next(iter(packed), None)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format) if taken is None else packed[taken]
    for at, gradient in gradients.items():
        if sizes[at] and at != taken:
            dx[..., at : at + sizes[at]].copy_(torch.zeros_like(x[..., :1]) if gradient is None else gradient)
    return dx


def run_update(
    x: Tensor, before: Tensor, state: Tensor, source: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """One position, for decoding: x (R, D) -> (R, D).

    Row source[r] of the state ``before`` (*, 3, D) moves on to row r of ``state`` (R, 3, D); both contiguous.
    """
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    x, weight = in_fours(x.unsqueeze(1)), weight.contiguous()
    rows, _, channels = x.shape
    arguments = ConvUpdate(
        x=x,
        before=before,
        state=state,
        out=out,
        source=source,
        weight=weight,
        bias=bias,
        x_row=x.stride(0),
        channels=channels,
        weight_type=dtype_code(weight),
        bias_type=dtype_code(bias),
    )
    launch(update_kernel(x.dtype), (-(-channels // 512), rows, 1), 128, 0, arguments, x.device)
    return out
