"""The launches of the scan's backward: which variants of the kernels, which memory, which arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_tune.ops.cuda.launch import dtype_code, in_fours, launch, names_memory
from ssm_tune.ops.cuda.sums import sum_partials
from ssm_tune.ops.packed_gradients import Group, allocate_gradients, slice_groups, unpack_gradients
from ssm_tune.ops.selective_scan.arguments import Backward, Carry, processors, readable, sizes, strides
from ssm_tune.ops.selective_scan.inputs import ScanInputs
from ssm_tune.ops.selective_scan.variants import (
    CHUNK,
    THREADS,
    Split,
    backward_kernel,
    backward_plan,
    backward_shared,
    carry_kernel,
    carry_shared,
)

INPUTS = ScanInputs._fields
_TOGETHER = [[INPUTS.index(name) for name in names] for names in (["B", "C"], ["z"])]
"""Which of the inputs are slices of one tensor, in a Mamba block."""


def groups_of(inputs: ScanInputs, wanted: Sequence[bool]) -> list[Group]:
    """The inputs whose gradients share memory (packed_gradients.py)."""
    return slice_groups(inputs, wanted, _TOGETHER)


def allocate_backward(inputs: ScanInputs, wanted: Sequence[bool]) -> list[Tensor]:
    """Memory for the gradients, one tensor for each input: see ``packed_gradients.allocate_gradients``."""
    return allocate_gradients(inputs, wanted, groups_of(inputs, wanted))


@names_memory("selective_scan, backward")
def run_backward(
    dout: Tensor,
    dfinal: Tensor | None,
    inputs: ScanInputs,
    pre_gate: Tensor,
    chunk_states: Tensor,
    softplus: bool,
    log_A: bool,
    wanted: Sequence[bool],
    split: Split | None = None,
    segments: int | None = None,
) -> list[Tensor]:
    """The gradients that are ``wanted``, one tensor for each input, as ``allocate_backward`` lays them out.

    dout, dfinal: gradients of y and of the final state. pre_gate, chunk_states: as the forward kept them. split,
    segments: of the kernels, chosen by the shapes where None.
    """
    rows, length, channels = inputs.u.shape
    want = dict(zip(INPUTS, wanted, strict=True))
    plan = backward_plan(inputs.A.shape[1], channels, length, rows, processors(inputs.u), want["A"])
    split = split or plan[0]
    returned = allocate_backward(inputs, wanted)
    grads = dict(zip(INPUTS, unpack_gradients(returned, groups_of(inputs, wanted)), strict=True))
    segment, segments = _segments(length, segments or plan[1])
    partial = _partial_sums(inputs, want, -(-channels // split.channels), segments)
    given = readable(inputs)
    dout, dfinal = in_fours(dout), None if dfinal is None else dfinal.contiguous()
    carries = given.u.new_empty(segments - 1, rows, channels, split.wide, dtype=torch.float32)
    durations = given.u.new_empty(segments - 1, rows, channels, dtype=torch.float32)
    if segments > 1:
        _launch_carry(dout, given, carries, durations, split, segment, softplus, log_A)
    dz = grads["z"] if want["z"] else given.u
    arguments = Backward(
        dout=dout,
        dfinal=dfinal,
        pre_gate=pre_gate,
        chunk_states=chunk_states,
        carries=carries,
        durations=durations,
        segment=segment,
        **_backward_inputs(given, log_A),
        **_backward_outputs(grads, partial, want),
        **strides(dout=dout, u=given.u, dt=given.dt, z=given.u if given.z is None else given.z),
        **strides(B=given.B, C=given.C, dz=dz),
    )
    has_z, has_offset = given.z is not None, given.state_offset is not None
    kernel = backward_kernel(given.u.dtype, split, inputs.A.shape[1], softplus, has_z, has_offset, want)
    grid = (-(-channels // split.channels), rows, segments)
    launch(kernel, grid, THREADS, backward_shared(split, given.u.dtype, has_z), arguments, given.u.device)
    if "initial_state" in partial and inputs.initial_state is not None and inputs.initial_state.dim() == 3:
        grads["initial_state"].copy_(partial.pop("initial_state"))
    sum_partials([(part, grads[name]) for name, part in partial.items()])
    return returned


def _launch_carry(
    dout: Tensor,
    given: ScanInputs,
    carries: Tensor,
    durations: Tensor,
    split: Split,
    segment: int,
    softplus: bool,
    log_A: bool,
) -> None:
    """What flows out of each segment of time but the first if nothing flows in; segment: chunks of one."""
    rows, _, channels = given.u.shape
    arguments = Carry(
        dout=dout,
        dt=given.dt,
        z=given.z,
        C=given.C,
        A=given.A,
        dt_bias=given.dt_bias,
        carries=carries,
        durations=durations,
        segment=segment,
        bias_type=dtype_code(given.dt_bias),
        log_A=log_A,
        **sizes(given),
        **strides(dout=dout, dt=given.dt, z=given.u if given.z is None else given.z, C=given.C),
    )
    has_z = given.z is not None
    kernel, shared = carry_kernel(given.u.dtype, split, softplus, has_z), carry_shared(split, given.u.dtype, has_z)
    grid = (-(-channels // split.channels), rows, carries.shape[0])
    launch(kernel, grid, THREADS, shared, arguments, given.u.device)


def _partial_sums(inputs: ScanInputs, want: dict[str, bool], blocks: int, segments: int) -> dict[str, Tensor]:
    """Float32 memory for the partial sums of the gradients that add up over blocks, rows or segments, by input."""
    u = inputs.u
    (rows, length, channels), states = u.shape, inputs.A.shape[1]
    shapes = {
        "B": (blocks, rows, length, states),
        "C": (blocks, rows, length, states),
        "A": (segments * rows, channels, states),
        "initial_state": (rows, channels, states),
        "state_offset": (segments * rows, channels, states),
        "D": (segments * rows, channels),
        "dt_bias": (segments * rows, channels),
        "output_offset": (segments * rows, channels),
    }
    return {name: u.new_empty(shape, dtype=torch.float32) for name, shape in shapes.items() if want[name]}


def _backward_inputs(given: ScanInputs, log_A: bool) -> dict[str, Tensor | int | None]:
    return {
        "u": given.u,
        "dt": given.dt,
        "z": given.z,
        "B": given.B,
        "C": given.C,
        "A": given.A,
        "D": given.D,
        "dt_bias": given.dt_bias,
        "offset": given.state_offset,
        **sizes(given),
        "D_type": dtype_code(given.D),
        "bias_type": dtype_code(given.dt_bias),
        "offset_type": dtype_code(given.state_offset),
        "log_A": log_A,
    }


def _backward_outputs(
    grads: dict[str, Tensor], partial: dict[str, Tensor], want: dict[str, bool]
) -> dict[str, Tensor | None]:
    """Where the kernel writes: gradients of what flows through, partial sums of the others."""
    return {
        "du": grads["u"] if want["u"] else None,
        "ddt": grads["dt"] if want["dt"] else None,
        "dz": grads["z"] if want["z"] else None,
        "dB": partial.get("B"),
        "dC": partial.get("C"),
        "dinitial": partial.get("initial_state"),
        "dA": partial.get("A"),
        "doffset": partial.get("state_offset"),
        "dD": partial.get("D"),
        "dbias": partial.get("dt_bias"),
        "doutput": partial.get("output_offset"),
    }


def _segments(length: int, most: int) -> tuple[int, int]:
    """Chunks of a segment, and how many segments that makes: at most so many."""
    chunks = -(-length // CHUNK)
    each = -(-chunks // most)
    return each, -(-chunks // each)
