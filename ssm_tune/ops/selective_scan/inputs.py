"""The tensors of a scan as one tuple, which the public function, its backends and its custom ops hand on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    if u.dim() != 3 or A.dim() != 2 or not u.is_floating_point():
        raise ValueError(f"selective_scan: u must be a floating (B, L, D) and A (D, N), got {_of(u)} and {_of(A)}")
    (rows, length, channels), states = u.shape, A.shape[1]
    if 0 in u.shape or states == 0:
        raise ValueError(f"selective_scan: no dimension may be empty, got u {_of(u)} and A {_of(A)}")
    expected: dict[str, list[tuple[int, ...]]] = {
        "dt": [(rows, length, channels)],
        "A": [(channels, states)],
        "B": [(rows, length, states)],
        "C": [(rows, length, states)],
        "D": [(channels,)],
        "z": [(rows, length, channels)],
        "dt_bias": [(channels,)],
        "initial_state": [(channels, states), (rows, channels, states)],
        "state_offset": [(channels, states)],
        "output_offset": [(channels,)],
    }
    for name, shapes in expected.items():
        tensor = getattr(inputs, name)
        if tensor is None:
            continue
        if tuple(tensor.shape) not in shapes:
            wanted = " or ".join(str(shape) for shape in shapes)
            raise ValueError(f"selective_scan: {name} must be {wanted} beside u {_of(u)}, got {_of(tensor)}")
        if tensor.device != u.device:
            raise ValueError(f"selective_scan: {name} is on {tensor.device}, u on {u.device}")


def _of(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
