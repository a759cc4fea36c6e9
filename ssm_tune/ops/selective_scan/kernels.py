"""``selective_scan`` on a GPU: the kernels' variants, their launches, and the custom ops that autograd sees.

The two ops take and give plain tensors, so that torch.compile and CUDA graphs see through them:

    ssm_tune::selective_scan           -> y, last state, y before its gate, states at the starts of the tiles
    ssm_tune::selective_scan_backward  -> one gradient for each input, empty where none is wanted
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.compiler import Kernel
from ssm_tune.ops.launch import DTYPE_CODES, address, code, in_fours, in_rows, launch, sum_partials

TILE = 32
"""Positions of a tile of the forward."""
BORDER = 16
"""Positions between kept states, which are a tile of the backward."""
GROUP = 4
"""Positions whose decays and states the backward holds in registers."""
THREADS = 128

INPUTS = "u dt A B C D z dt_bias initial_state state_offset output_offset".split()
_TENSORS = (
    "Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "Tensor? initial_state, Tensor? state_offset, Tensor? output_offset"
)


@dataclass(frozen=True)
class Split:
    """How a channel's states are spread: over ``lanes`` neighbouring lanes, ``states`` each; ``per`` channels a lane."""

    lanes: int
    states: int
    per: int = 1
    resident: int = 1
    """Blocks that a multiprocessor must be able to hold at once: it bounds the registers of a thread."""

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return THREADS // self.lanes * self.per

    @property
    def wide(self) -> int:
        """States of a channel, padded."""
        return self.lanes * self.states


def split_of(states: int) -> Split:
    """The split that fits N ``states`` with one channel a lane."""
    if states <= 16:
        return Split(4, -(-states // 4))
    if states <= 24:
        return Split(4, 6)
    return Split(8, -(-states // 8)) if states <= 48 else Split(16, 4)


def forward_split(states: int, channels: int, processors: int) -> Split:
    """The forward's split for N ``states`` and B x D ``channels`` on a GPU of so many multiprocessors.

    Few states a lane make more warps, so that a small problem fills the GPU, but more to add up between lanes; two
    channels a lane share what is read of B and C.
    """
    split = split_of(states)
    if split.states % 2 == 0 and split.lanes == 4 and channels < 96 * processors:
        return Split(8, split.states // 2)
    return Split(split.lanes, split.states, 2 if split.states <= 4 else 1)


def backward_plan(states: int, channels: int, length: int, rows: int, processors: int) -> tuple[Split, int]:
    """The backward's split, and the number of segments that time is cut into to fill the GPU."""
    split = split_of(states)
    split = Split(split.lanes, split.states, 2 if split.states <= 4 else 1, 3)
    blocks = -(-channels // split.channels) * rows
    return split, max(1, 3 * processors // blocks)


def forward_kernel(dtype: torch.dtype, split: Split, softplus: bool, z: bool, offset: bool, keep: bool) -> Kernel:
    return Kernel.of(
        "scan_forward",
        {"DTYPE": DTYPE_CODES[dtype], "LANES": split.lanes, "STATES": split.states, "PER": split.per, "CHANNELS": split.channels,
         "RESIDENT": split.resident, "TILE": TILE, "BORDER": BORDER, "SOFTPLUS": int(softplus), "HAS_Z": int(z), "HAS_OFFSET": int(offset), "KEEP": int(keep)},
    )  # fmt: skip


def backward_kernel(
    dtype: torch.dtype, split: Split, softplus: bool, z: bool, offset: bool, wanted: dict[str, bool]
) -> Kernel:
    names = {"u": "U", "dt": "DT", "B": "B", "C": "C", "z": "Z", "A": "A", "D": "D", "dt_bias": "BIAS",
             "state_offset": "OFFSET", "output_offset": "OUTPUT"}  # fmt: skip
    return Kernel.of(
        "scan_backward",
        {"DTYPE": DTYPE_CODES[dtype], "LANES": split.lanes, "STATES": split.states, "PER": split.per, "CHANNELS": split.channels,
         "RESIDENT": split.resident, "TILE": BORDER, "GROUP": GROUP, "SOFTPLUS": int(softplus), "HAS_Z": int(z), "HAS_OFFSET": int(offset)}
        | {f"D_{macro}": int(wanted[name]) for name, macro in names.items()},
    )  # fmt: skip


def carry_kernel(dtype: torch.dtype, split: Split, softplus: bool, z: bool) -> Kernel:
    return Kernel.of(
        "scan_carry",
        {"DTYPE": DTYPE_CODES[dtype], "LANES": split.lanes, "STATES": split.states, "PER": split.per,
         "CHANNELS": split.channels, "RESIDENT": split.resident, "TILE": BORDER, "SOFTPLUS": int(softplus),
         "HAS_Z": int(z)},
    )  # fmt: skip


def forward_shared(split: Split, dtype: torch.dtype, z: bool) -> int:
    """Bytes of shared memory of a forward block."""
    raw = 2 * (3 if z else 2) * TILE * split.channels * dtype.itemsize
    return 4 * 2 * TILE * (split.channels + 8) + TILE * split.wide * _bc_size(split, dtype) + raw


def backward_shared(split: Split, dtype: torch.dtype, z: bool) -> int:
    """Bytes of shared memory of a backward block."""
    part = 1
    while split.states % (2 * part) == 0:
        part *= 2
    orders = min(part, 32 // split.lanes)
    floats = 3 * BORDER * (split.channels + 8) + BORDER // GROUP * split.per * THREADS * split.states
    floats += THREADS // 32 * BORDER * 2 * split.wide
    raw = (7 if z else 5) * BORDER * split.channels * dtype.itemsize
    return 4 * floats + orders * BORDER * split.wide * _bc_size(split, dtype) + raw


def carry_shared(split: Split, dtype: torch.dtype, z: bool) -> int:
    """Bytes of shared memory of a block of the carry."""
    raw = (3 if z else 2) * BORDER * split.channels * dtype.itemsize
    return 4 * BORDER * (2 * (split.channels + 8) + split.wide) + raw


def _bc_size(split: Split, dtype: torch.dtype) -> int:
    """Bytes of one pair of B and C: packed where a lane has several channels."""
    return 2 * dtype.itemsize if split.per > 1 else 8


def run_forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    initial_state: Tensor | None, state_offset: Tensor | None, output_offset: Tensor | None, softplus: bool,
    keep: bool, split: Split | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows, length, channels = u.shape
    split = split or forward_split(A.shape[1], rows * channels, _processors(u))
    out, last, ungated, borders = _forward_outputs(u, A, z, keep, split.wide)
    u, dt, z = in_fours(u), in_fours(dt), None if z is None else in_fours(z)
    A, B, C = A.contiguous(), in_rows(B), in_rows(C)
    D, dt_bias, initial_state, state_offset, output_offset = (
        None if x is None else x.contiguous() for x in (D, dt_bias, initial_state, state_offset, output_offset)
    )
    zero = u if z is None else z
    per_row = A.numel() if initial_state is not None and initial_state.dim() == 3 else 0
    launch(
        forward_kernel(u.dtype, split, softplus, z is not None, state_offset is not None, keep),
        (-(-channels // split.channels), rows, 1),
        THREADS,
        forward_shared(split, u.dtype, z is not None),
        "15P6q13i",
        [*map(address, (u, dt, z, B, C, A, D, dt_bias, initial_state, state_offset, output_offset)),
         *map(address, (out, ungated, borders if keep else None, last)),
         u.stride(0), dt.stride(0), zero.stride(0), B.stride(0), C.stride(0), per_row,
         u.stride(1), dt.stride(1), zero.stride(1), B.stride(1), C.stride(1),
         length, channels, A.shape[1],
         *map(code, (D, dt_bias, initial_state, state_offset, output_offset))],
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
    return out, last, ungated, u.new_empty(rows, tiles, channels, wide, dtype=torch.float32)


def run_backward(
    dout: Tensor, dlast: Tensor | None, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, dt_bias: Tensor | None, initial_state: Tensor | None, state_offset: Tensor | None,
    output_offset: Tensor | None, ungated: Tensor, borders: Tensor, softplus: bool, wanted: list[bool],
    split: Split | None = None, segments: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    rows, length, channels = u.shape
    states = A.shape[1]
    planned, parts = backward_plan(states, channels, length, rows, _processors(u))
    split = split or planned
    given = (u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset)
    want = dict(zip(INPUTS, wanted, strict=True))
    grads = dict(zip(INPUTS, _gradients(given, wanted), strict=True))
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
    A, B, C = A.contiguous(), in_rows(B), in_rows(C)
    D, dt_bias, state_offset, dlast = (
        None if x is None else x.contiguous() for x in (D, dt_bias, state_offset, dlast)
    )
    zero = u if z is None else z
    carries = u.new_empty(segments - 1, rows, channels, split.wide, dtype=torch.float32)
    durations = u.new_empty(segments - 1, rows, channels, dtype=torch.float32)
    if segments > 1:
        launch(
            carry_kernel(u.dtype, split, softplus, z is not None),
            (blocks, rows, segments - 1),
            THREADS,
            carry_shared(split, u.dtype, z is not None),
            "8P4q9i",
            [*map(address, (dout, dt, z, C, A, dt_bias, carries, durations)),
             dout.stride(0), dt.stride(0), zero.stride(0), C.stride(0),
             dout.stride(1), dt.stride(1), zero.stride(1), C.stride(1),
             length, channels, states, each, code(dt_bias)],
            u.device,
        )  # fmt: skip
    addresses = [address(partial.get(name)) for name in
             ("B", "C", "initial_state", "A", "state_offset", "D", "dt_bias", "output_offset")]  # fmt: skip
    launch(
        backward_kernel(u.dtype, split, softplus, z is not None, state_offset is not None, want),
        (blocks, rows, segments),
        THREADS,
        backward_shared(split, u.dtype, z is not None),
        "26P6q13i",
        [*map(address, (dout, u, dt, z, B, C, ungated, A, D, dt_bias, state_offset, borders, dlast,
                        carries, durations)),
         *(address(grads[name] if want[name] else None) for name in ("u", "dt", "z")), *addresses,
         dout.stride(0), u.stride(0), dt.stride(0), zero.stride(0), B.stride(0), C.stride(0),
         dout.stride(1), u.stride(1), dt.stride(1), zero.stride(1), B.stride(1), C.stride(1),
         length, channels, states, each, *map(code, (D, dt_bias, state_offset))],
        u.device,
    )  # fmt: skip
    if "initial_state" in partial and initial_state is not None and initial_state.dim() == 3:
        grads["initial_state"].copy_(partial.pop("initial_state"))
    sum_partials([(part, grads[name]) for name, part in partial.items()])
    return tuple(grads.values())


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count


def _segments(length: int, most: int) -> tuple[int, int]:
    """Tiles of a segment, and segments, of which there shall be at most so many."""
    tiles = -(-length // BORDER)
    each = -(-tiles // most)
    return each, -(-tiles // each)


def _gradients(given: tuple[Tensor | None, ...], wanted: list[bool]) -> list[Tensor]:
    """An uninitialised gradient, contiguous, for each input that wants one; an empty tensor for the others."""
    first = given[0]
    assert first is not None
    return [
        torch.empty_like(x, memory_format=torch.contiguous_format) if want and x is not None else first.new_empty(0)
        for x, want in zip(given, wanted, strict=True)
    ]


_forward = torch.library.custom_op(
    "ssm_tune::selective_scan",
    run_forward,
    mutates_args=(),
    device_types="cuda",
    schema=f"({_TENSORS}, bool softplus, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
_backward = torch.library.custom_op(
    "ssm_tune::selective_scan_backward",
    run_backward,
    mutates_args=(),
    device_types="cuda",
    schema=f"(Tensor dout, Tensor? dlast, {_TENSORS}, Tensor ungated, Tensor borders, bool softplus, bool[] wanted) -> "
    f"({', '.join(['Tensor'] * len(INPUTS))})",
)


@_forward.register_fake
def _(u: Tensor, dt: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    z, keep = rest[3], rest[-1]
    return _forward_outputs(u, A, z, keep, split_of(A.shape[1]).wide)


@_backward.register_fake
def _(dout: Tensor, dlast: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(_gradients(rest[:11], rest[-1]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, ungated, borders = output
    ctx.mark_non_differentiable(ungated, borders)
    ctx.set_materialize_grads(False)
    ctx.softplus = inputs[11]
    ctx.save_for_backward(*inputs[:11], ungated, borders)


def _differentiate(ctx: Any, dout: Tensor | None, dlast: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    *given, ungated, borders = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:11])
    if dout is None:
        dout = torch.zeros_like(given[0])
    grads = _backward(dout, dlast, *given, ungated, borders, ctx.softplus, wanted)
    return (*(grad if want else None for grad, want in zip(grads, wanted, strict=True)), None, None)


def _refuse(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(
        "selective_scan: the CUDA kernels have no second derivative; backend=reference has one by plain PyTorch"
    )


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_refuse)


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, dt_bias: Tensor | None,
    initial_state: Tensor | None, state_offset: Tensor | None, output_offset: Tensor | None, softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y and the last state; what the backward needs is kept only where a gradient can be asked for."""
    dtype = u.dtype
    for x in (dt, B, C, z):
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    given = (
        u.to(dtype), dt.to(dtype), A.float(), B.to(dtype), C.to(dtype), D, None if z is None else z.to(dtype), dt_bias,
        initial_state, state_offset, output_offset,
    )  # fmt: skip
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    out, last, _, _ = _forward(*given, softplus, keep)
    return out.to(u.dtype), last


def run_step(
    state: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor,
    state_offset: Tensor | None, output_offset: Tensor | None,
) -> Tensor:  # fmt: skip
    """One position, for decoding: u, dt, z (R, D), B, C (R, N); ``state`` (R, D, N) moves on in place -> y (R, D)."""
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
        "12P5q6i",
        [*map(address, (u, dt, z, B, C, A, D, dt_bias, state_offset, output_offset, state, out)),
         *(x.stride(0) for x in (u, dt, z, B, C)), channels, states,
         *map(code, (D, dt_bias, state_offset, output_offset))],
        u.device,
    )  # fmt: skip
    return out


def step_kernel(dtype: torch.dtype, split: Split, offset: bool) -> Kernel:
    return Kernel.of(
        "scan_step",
        {"DTYPE": DTYPE_CODES[dtype], "LANES": split.lanes, "STATES": split.states, "SOFTPLUS": 1, "HAS_Z": 1,
         "HAS_OFFSET": int(offset)},
        "step",
    )  # fmt: skip
