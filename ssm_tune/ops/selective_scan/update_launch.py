"""The launch of one position of the scan, for decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_tune.ops.cuda.launch import dtype_code, launch
from ssm_tune.ops.selective_scan.arguments import StateUpdate
from ssm_tune.ops.selective_scan.inputs import ScanInputs
from ssm_tune.ops.selective_scan.variants import THREADS, split_of, update_kernel


def run_update(inputs: ScanInputs, before: Tensor, state: Tensor, source: Tensor | None, log_A: bool) -> Tensor:
    """One position, for decoding: u, dt, z (R, D), B, C (R, N), softplus and D always -> y (R, D).

    Row source[r] of the state ``before`` (*, D, N) moves on to row r of ``state`` (R, D, N); both contiguous, float32.
    """
    out = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    u, dt, B, C, z = (
        x if x is None or x.stride(1) == 1 else x.contiguous()
        for x in (inputs.u, inputs.dt, inputs.B, inputs.C, inputs.z)
    )
    assert u is not None
    assert dt is not None
    assert B is not None
    assert C is not None
    assert z is not None
    D, dt_bias, offset, output_offset = (
        None if x is None else x.contiguous()
        for x in (inputs.D, inputs.dt_bias, inputs.state_offset, inputs.output_offset)
    )
    (rows, channels), states = u.shape, inputs.A.shape[1]
    split = split_of(states)
    arguments = StateUpdate(
        u=u,
        dt=dt,
        z=z,
        B=B,
        C=C,
        A=inputs.A.float().contiguous(),
        before=before,
        D=D,
        dt_bias=dt_bias,
        offset=offset,
        output_offset=output_offset,
        state=state,
        out=out,
        source=source,
        u_row=u.stride(0),
        dt_row=dt.stride(0),
        z_row=z.stride(0),
        B_row=B.stride(0),
        C_row=C.stride(0),
        channels=channels,
        states=states,
        D_type=dtype_code(D),
        bias_type=dtype_code(dt_bias),
        offset_type=dtype_code(offset),
        output_type=dtype_code(output_offset),
        log_A=log_A,
    )
    grid = (-(-channels * split.lanes // THREADS), rows, 1)
    launch(update_kernel(u.dtype, split, offset is not None), grid, THREADS, 0, arguments, u.device)
    return out
