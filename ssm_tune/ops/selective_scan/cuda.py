"""``selective_scan`` on a GPU: the kernels' variants, their launches, and the custom ops that autograd sees.

The two ops take and give plain tensors, so that torch.compile and CUDA graphs see through them:

    ssm_tune::selective_scan           -> y, last state, y before its gate, states at the starts of the tiles
    ssm_tune::selective_scan_backward  -> one gradient for each input, empty where none is wanted; of inputs that are
                                          slices of one tensor, memory as large as it (ops/joining.py)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import once_differentiable
from ssm_tune.ops.cuda.launch import (
    DTYPE_CODES,
    address,
    code,
    in_fours,
    in_twos,
    launch,
    names_memory,
    sum_partials,
)
from ssm_tune.ops.packed_gradients import gradients_within, memory_of_gradients, rooms_of
from ssm_tune.ops.selective_scan.variants import (
    BORDER,
    THREADS,
    Split,
    backward_kernel,
    backward_plan,
    backward_shared,
    carry_kernel,
    carry_shared,
    forward_kernel,
    forward_shared,
    forward_split,
    kept_dtype,
    split_of,
    step_kernel,
)

INPUTS = ["u", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state", "state_offset", "output_offset"]
_TOGETHER = [[INPUTS.index(name) for name in names] for names in (["B", "C"], ["z"])]
"""Which of them are slices of one tensor, in a Mamba block."""
_TENSORS = (
    "Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "Tensor? initial_state, Tensor? state_offset, Tensor? output_offset"
)


@names_memory("selective_scan")
def run_forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    initial_state: Tensor | None, state_offset: Tensor | None, output_offset: Tensor | None, softplus: bool,
    log_A: bool, keep: bool, split: Split | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows, length, channels = u.shape
    split = split or forward_split(A.shape[1], rows * channels, _processors(u))
    out, last, ungated, borders = _forward_outputs(u, A, z, keep, split.wide)
    u, dt, z = in_fours(u), in_fours(dt), None if z is None else in_fours(z)
    A, B, C = A.contiguous(), in_twos(B), in_twos(C)
    D, dt_bias, initial_state, state_offset, output_offset = (
        None if x is None else x.contiguous() for x in (D, dt_bias, initial_state, state_offset, output_offset)
    )
    zero = u if z is None else z
    per_row = A.numel() if initial_state is not None and initial_state.dim() == 3 else 0
    launch(
        forward_kernel(u.dtype, split, A.shape[1], softplus, z is not None, state_offset is not None, keep),
        (-(-channels // split.channels), rows, 1),
        THREADS,
        forward_shared(split, u.dtype, z is not None),
        "15P6q14i",
        [*map(address, (u, dt, z, B, C, A, D, dt_bias, initial_state, state_offset, output_offset)),
         *map(address, (out, ungated, borders if keep else None, last)),
         u.stride(0), dt.stride(0), zero.stride(0), B.stride(0), C.stride(0), per_row,
         u.stride(1), dt.stride(1), zero.stride(1), B.stride(1), C.stride(1),
         length, channels, A.shape[1],
         *map(code, (D, dt_bias, initial_state, state_offset, output_offset)), log_A],
        u.device,
    )  # fmt: skip
    return out, last, ungated, borders


def _forward_outputs(
    u: Tensor, A: Tensor, z: Tensor | None, keep: bool, wide: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, length, channels = u.shape
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    last = u.new_empty(rows, channels, A.shape[1], dtype=torch.float32)
    ungated = torch.empty_like(out) if keep and z is not None else u.new_empty(0)
    tiles = -(-length // BORDER) if keep else 0
    borders = u.new_empty(rows, tiles, channels, wide, dtype=kept_dtype(u.dtype, A.shape[1]))
    return out, last, ungated, borders


@names_memory("selective_scan, backward")
def run_backward(
    dout: Tensor, dlast: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, dt_bias: Tensor | None, initial_state: Tensor | None, state_offset: Tensor | None,
    output_offset: Tensor | None, ungated: Tensor, borders: Tensor, softplus: bool, log_A: bool, wanted: list[bool],
    split: Split | None = None, segments: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    rows, length, channels = u.shape
    states, want = A.shape[1], dict(zip(INPUTS, wanted, strict=True))
    planned, parts = backward_plan(states, channels, length, rows, _processors(u), want["A"])
    split = split or planned
    given = (u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset)
    rooms = rooms_of(given, wanted, _TOGETHER)
    returned = memory_of_gradients(given, wanted, rooms)
    grads = dict(zip(INPUTS, gradients_within(returned, rooms), strict=True))
    blocks = -(-channels // split.channels)
    each, segments = _segments(length, segments or parts)
    partial: dict[str, Tensor] = {}
    for name in ("B", "C"):
        if want[name]:
            partial[name] = u.new_empty(blocks, rows, length, states, dtype=torch.float32)
    for name in ("A", "initial_state", "state_offset"):
        if want[name]:
            copies = 1 if name == "initial_state" else segments
            partial[name] = u.new_empty(copies * rows, channels, states, dtype=torch.float32)
    for name in ("D", "dt_bias", "output_offset"):
        if want[name]:
            partial[name] = u.new_empty(segments * rows, channels, dtype=torch.float32)
    dout, u, dt, z = in_fours(dout), in_fours(u), in_fours(dt), None if z is None else in_fours(z)
    A, B, C = A.contiguous(), in_twos(B), in_twos(C)
    D, dt_bias, state_offset, dlast = (None if x is None else x.contiguous() for x in (D, dt_bias, state_offset, dlast))
    zero, dz = u if z is None else z, grads["z"] if want["z"] else u
    carries = u.new_empty(segments - 1, rows, channels, split.wide, dtype=torch.float32)
    durations = u.new_empty(segments - 1, rows, channels, dtype=torch.float32)
    if segments > 1:
        launch(
            carry_kernel(u.dtype, split, softplus, z is not None),
            (blocks, rows, segments - 1),
            THREADS,
            carry_shared(split, u.dtype, z is not None),
            "8P4q10i",
            [*map(address, (dout, dt, z, C, A, dt_bias, carries, durations)),
             dout.stride(0), dt.stride(0), zero.stride(0), C.stride(0),
             dout.stride(1), dt.stride(1), zero.stride(1), C.stride(1),
             length, channels, states, each, code(dt_bias), log_A],
            u.device,
        )  # fmt: skip
    addresses = [address(partial.get(name)) for name in
             ("B", "C", "initial_state", "A", "state_offset", "D", "dt_bias", "output_offset")]  # fmt: skip
    launch(
        backward_kernel(u.dtype, split, states, softplus, z is not None, state_offset is not None, want),
        (blocks, rows, segments),
        THREADS,
        backward_shared(split, u.dtype, z is not None),
        "26P7q15i4x",
        [*map(address, (dout, u, dt, z, B, C, ungated, A, D, dt_bias, state_offset, borders, dlast,
                        carries, durations)),
         *(address(grads[name] if want[name] else None) for name in ("u", "dt", "z")), *addresses,
         dout.stride(0), u.stride(0), dt.stride(0), zero.stride(0), B.stride(0), C.stride(0), dz.stride(0),
         dout.stride(1), u.stride(1), dt.stride(1), zero.stride(1), B.stride(1), C.stride(1), dz.stride(1),
         length, channels, states, each, *map(code, (D, dt_bias, state_offset)), log_A],
        u.device,
    )  # fmt: skip
    if "initial_state" in partial and initial_state is not None and initial_state.dim() == 3:
        grads["initial_state"].copy_(partial.pop("initial_state"))
    sum_partials([(part, grads[name]) for name, part in partial.items()])
    return tuple(returned)


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count


def _segments(length: int, most: int) -> tuple[int, int]:
    """Tiles of a segment, and how many segments that makes: at most so many."""
    tiles = -(-length // BORDER)
    each = -(-tiles // most)
    return each, -(-tiles // each)


_forward = torch.library.custom_op(
    "ssm_tune::selective_scan",
    run_forward,
    mutates_args=(),
    device_types="cuda",
    schema=f"({_TENSORS}, bool softplus, bool log_A, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
_backward = torch.library.custom_op(
    "ssm_tune::selective_scan_backward",
    run_backward,
    mutates_args=(),
    device_types="cuda",
    schema=f"(Tensor dout, Tensor? dlast, {_TENSORS}, Tensor ungated, Tensor borders, bool softplus, bool log_A, "
    f"bool[] wanted) -> ({', '.join(['Tensor'] * len(INPUTS))})",
)


@_forward.register_fake
def _(u: Tensor, dt: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    z, keep = rest[3], rest[-1]
    return _forward_outputs(u, A, z, keep, split_of(A.shape[1]).wide)


@_backward.register_fake
def _(dout: Tensor, dlast: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    given, wanted = rest[:11], rest[-1]
    return tuple(memory_of_gradients(given, wanted, rooms_of(given, wanted, _TOGETHER)))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, ungated, borders = output
    ctx.mark_non_differentiable(ungated, borders)
    ctx.set_materialize_grads(False)
    ctx.flags = inputs[11:13]
    ctx.save_for_backward(*inputs[:11], ungated, borders)


def _differentiate(ctx: Any, dout: Tensor | None, dlast: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    *given, ungated, borders = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:11])
    if dout is None:
        dout = torch.zeros_like(given[0])
    returned = _backward(dout, dlast, *given, ungated, borders, *ctx.flags, wanted)
    grads = gradients_within(returned, rooms_of(given, wanted, _TOGETHER))
    return (*(grad if want else None for grad, want in zip(grads, wanted, strict=True)), None, None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(once_differentiable("selective_scan"))


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    initial_state: Tensor | None, state_offset: Tensor | None, output_offset: Tensor | None, softplus: bool,
    log_A: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y and the last state; what the backward needs is kept only where a gradient can be asked for."""
    dtype = u.dtype
    for x in (dt, B, C, z):
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    dtype = dtype if dtype in DTYPE_CODES else torch.float32
    flowing = [None if x is None else x.to(dtype) for x in (u, dt, B, C, z)]
    weights = [
        x if x is None or x.dtype in DTYPE_CODES else x.float()
        for x in (D, dt_bias, initial_state, state_offset, output_offset)
    ]
    given = (*flowing[:2], A.float(), *flowing[2:4], weights[0], flowing[4], *weights[1:])
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    out, last, _, _ = _forward(*given, softplus, log_A, keep)
    return out.to(u.dtype), last


def run_step(
    before: Tensor, state: Tensor, source: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor, z: Tensor, dt_bias: Tensor, state_offset: Tensor | None, output_offset: Tensor | None, log_A: bool,
) -> Tensor:  # fmt: skip
    """One position, for decoding: u, dt, z (R, D), B, C (R, N); row source[r] of ``before`` (*, D, N) moves on to row r
    of ``state`` (R, D, N) -> y (R, D)."""
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    u, dt, z, B, C = (x if x.stride(1) == 1 else x.contiguous() for x in (u, dt, z, B, C))
    A, D, dt_bias = A.float().contiguous(), D.contiguous(), dt_bias.contiguous()
    state_offset, output_offset = (None if x is None else x.contiguous() for x in (state_offset, output_offset))
    (rows, channels), states = u.shape, A.shape[1]
    split = split_of(states)
    launch(
        step_kernel(u.dtype, split, state_offset is not None),
        (-(-channels * split.lanes // THREADS), rows, 1),
        THREADS,
        0,
        "14P5q7i4x",
        [*map(address, (u, dt, z, B, C, A, before, D, dt_bias, state_offset, output_offset, state, out, source)),
         *(x.stride(0) for x in (u, dt, z, B, C)), channels, states,
         *map(code, (D, dt_bias, state_offset, output_offset)), log_A],
        u.device,
    )  # fmt: skip
    return out
