"""The launch of the scan's forward: which variant of the kernel, which memory, which arguments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_tune.ops.cuda.launch import dtype_code, launch, names_memory
from ssm_tune.ops.selective_scan.arguments import Forward, processors, readable, sizes, strides
from ssm_tune.ops.selective_scan.inputs import ScanInputs
from ssm_tune.ops.selective_scan.variants import (
    CHUNK,
    THREADS,
    Split,
    chunk_state_dtype,
    forward_kernel,
    forward_shared,
    forward_split,
)


class ForwardResults(NamedTuple):
    """y: (B, L, D) in u's dtype. final_state: (B, D, N) float32. pre_gate: y before its gate, as y, and chunk_states:
    (B, chunks, D, N padded), the states at the starts of chunks; both for the backward, empty where there is none."""

    y: Tensor
    final_state: Tensor
    pre_gate: Tensor
    chunk_states: Tensor


def allocate_forward(u: Tensor, A: Tensor, z: Tensor | None, keep: bool, wide: int) -> ForwardResults:
    """keep: for a backward; wide: states of a channel, padded."""
    rows, length, channels = u.shape
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    final_state = u.new_empty(rows, channels, A.shape[1], dtype=torch.float32)
    pre_gate = torch.empty_like(y) if keep and z is not None else u.new_empty(0)
    chunks = -(-length // CHUNK) if keep else 0
    chunk_states = u.new_empty(rows, chunks, channels, wide, dtype=chunk_state_dtype(u.dtype, A.shape[1]))
    return ForwardResults(y, final_state, pre_gate, chunk_states)


@names_memory("selective_scan")
def run_forward(
    inputs: ScanInputs, softplus: bool, log_A: bool, keep: bool, split: Split | None = None
) -> ForwardResults:
    """keep: what the backward needs. split: of the kernel, chosen by the shapes where None."""
    rows, _, channels = inputs.u.shape
    states = inputs.A.shape[1]
    split = split or forward_split(states, rows * channels, processors(inputs.u))
    results = allocate_forward(inputs.u, inputs.A, inputs.z, keep, split.wide)
    given = readable(inputs)
    initial = given.initial_state
    arguments = Forward(
        u=given.u,
        dt=given.dt,
        z=given.z,
        B=given.B,
        C=given.C,
        A=given.A,
        D=given.D,
        dt_bias=given.dt_bias,
        initial=initial,
        offset=given.state_offset,
        output_offset=given.output_offset,
        out=results.y,
        pre_gate=results.pre_gate,
        chunk_states=results.chunk_states if keep else None,
        final_state=results.final_state,
        initial_row=given.A.numel() if initial is not None and initial.dim() == 3 else 0,
        **sizes(given),
        **strides(u=given.u, dt=given.dt, z=given.u if given.z is None else given.z, B=given.B, C=given.C),
        D_type=dtype_code(given.D),
        bias_type=dtype_code(given.dt_bias),
        initial_type=dtype_code(initial),
        offset_type=dtype_code(given.state_offset),
        output_type=dtype_code(given.output_offset),
        log_A=log_A,
    )
    has_z, has_offset = given.z is not None, given.state_offset is not None
    kernel = forward_kernel(given.u.dtype, split, states, softplus, has_z, has_offset, keep)
    grid = (-(-channels // split.channels), rows, 1)
    launch(kernel, grid, THREADS, forward_shared(split, given.u.dtype, has_z), arguments, given.u.device)
    return results
