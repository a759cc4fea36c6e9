"""The arguments of the scan's kernels; each class is a struct of a .cu file beside it, under the same name."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_tune.ops.cuda.arguments import Arguments, int32s, int64s, pointers
from ssm_tune.ops.cuda.launch import in_fours, in_twos
from ssm_tune.ops.selective_scan.inputs import ScanInputs


class Forward(Arguments):
    """scan_forward.cu."""

    _fields_ = (
        *pointers("u", "dt", "z", "B", "C", "A", "D", "dt_bias", "initial", "offset", "output_offset"),
        *pointers("out", "pre_gate", "chunk_states", "final_state"),
        *int64s("u_row", "dt_row", "z_row", "B_row", "C_row", "initial_row"),
        *int32s("u_step", "dt_step", "z_step", "B_step", "C_step"),
        *int32s("length", "channels", "states"),
        *int32s("D_type", "bias_type", "initial_type", "offset_type", "output_type", "log_A"),
    )


class Carry(Arguments):
    """scan_carry.cu."""

    _fields_ = (
        *pointers("dout", "dt", "z", "C", "A", "dt_bias", "carries", "durations"),
        *int64s("dout_row", "dt_row", "z_row", "C_row"),
        *int32s("dout_step", "dt_step", "z_step", "C_step"),
        *int32s("length", "channels", "states", "segment", "bias_type", "log_A"),
    )


class Backward(Arguments):
    """scan_backward.cu."""

    _fields_ = (
        *pointers("dout", "u", "dt", "z", "B", "C", "pre_gate", "A", "D", "dt_bias", "offset"),
        *pointers("chunk_states", "dfinal", "carries", "durations"),
        *pointers("du", "ddt", "dz", "dB", "dC", "dinitial", "dA", "doffset", "dD", "dbias", "doutput"),
        *int64s("dout_row", "u_row", "dt_row", "z_row", "B_row", "C_row", "dz_row"),
        *int32s("dout_step", "u_step", "dt_step", "z_step", "B_step", "C_step", "dz_step"),
        *int32s("length", "channels", "states", "segment", "D_type", "bias_type", "offset_type", "log_A"),
    )


class StateUpdate(Arguments):
    """state_update.cu."""

    _fields_ = (
        *pointers("u", "dt", "z", "B", "C", "A", "before", "D", "dt_bias", "offset", "output_offset"),
        *pointers("state", "out", "source"),
        *int64s("u_row", "dt_row", "z_row", "B_row", "C_row"),
        *int32s("channels", "states", "D_type", "bias_type", "offset_type", "output_type", "log_A"),
    )


def readable(inputs: ScanInputs) -> ScanInputs:
    """The inputs where they lie if the kernels can read them there, else copies."""
    u, dt, A, B, C, D, z, *rest = inputs
    return ScanInputs(
        in_fours(u),
        in_fours(dt),
        A.contiguous(),
        in_twos(B),
        in_twos(C),
        None if D is None else D.contiguous(),
        None if z is None else in_fours(z),
        *(None if x is None else x.contiguous() for x in rest),
    )


def sizes(given: ScanInputs) -> dict[str, int]:
    return {"length": given.u.shape[1], "channels": given.u.shape[2], "states": given.A.shape[1]}


def strides(**tensors: Tensor) -> dict[str, int]:
    """NAME_row and NAME_step: the strides of batch and time, in elements."""
    rows = {f"{name}_row": x.stride(0) for name, x in tensors.items()}
    return rows | {f"{name}_step": x.stride(1) for name, x in tensors.items()}


def processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count
