"""The tensors of a scan as one tuple, which the public function, its backends and its custom ops hand on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_tune.ops.member_rows import by_row, count_members, fits_rows, run_by_member

PARAMETER_DIMS = {"A": 2, "D": 1, "dt_bias": 1, "initial_state": 2, "state_offset": 2, "output_offset": 1}
"""The arguments that are no batch's: their dimensions where all rows share them."""


class ScanInputs(NamedTuple):
    """The tensor arguments of ``selective_scan``, which says what each is."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    dt_bias: Tensor | None = None
    initial_state: Tensor | None = None
    state_offset: Tensor | None = None
    output_offset: Tensor | None = None


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states and sums: float64 for float64 inputs, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_inputs(inputs: ScanInputs) -> None:
    """Raise ValueError, naming the tensor, for shapes, dtypes or devices that do not belong together."""
    u, A = inputs.u, inputs.A
    if u.dim() != 3 or A.dim() not in (2, 3) or not u.is_floating_point():
        raise ValueError(f"selective_scan: u must be a floating (B, L, D) and A (D, N), got {_of(u)} and {_of(A)}")
    (rows, length, channels), states = u.shape, A.shape[-1]
    if 0 in u.shape or states == 0:
        raise ValueError(f"selective_scan: no dimension may be empty, got u {_of(u)} and A {_of(A)}")
    by_position = {"dt": channels, "B": states, "C": states, "z": channels}
    expected = {name: (rows, length, width) for name, width in by_position.items()}
    shared = {name: (channels, states)[:dims] for name, dims in PARAMETER_DIMS.items()}
    for name, shape in (expected | shared).items():
        tensor = getattr(inputs, name)
        if tensor is None:
            continue
        if not (fits_rows(tensor.shape, shape, rows) if name in shared else tuple(tensor.shape) == shape):
            wanted = str(shape)
            if name in shared:
                wanted += f" or {str(('M', *shape)).replace(chr(39), '')} with M a divisor of {rows}"
            raise ValueError(f"selective_scan: {name} must be {wanted} beside u {_of(u)}, got {_of(tensor)}")
        if tensor.device != u.device:
            raise ValueError(f"selective_scan: {name} is on {tensor.device}, u on {u.device}")


def scan_by_member(
    operation: Callable[..., Tensor | tuple[Tensor, Tensor]], inputs: ScanInputs
) -> Tensor | tuple[Tensor, Tensor] | None:
    """``operation``, called with the arguments of each member by itself; None where all rows share all parameters."""
    given = inputs._asdict()
    parameters = {name: (given[name], dims) for name, dims in PARAMETER_DIMS.items() if name != "initial_state"}
    members = count_members(parameters)
    if members is None:
        return None
    batch = {name: given[name] for name in ("u", "dt", "B", "C", "z")}
    start = inputs.initial_state
    if start is not None:
        batch["initial_state"] = by_row(start, 2, inputs.u.shape[0]).expand(inputs.u.shape[0], -1, -1)
    return run_by_member(operation, members, batch, parameters)


def _of(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
