"""What ``state_space_dual`` and its update take, and where they run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_tune.ops import backend
from ssm_tune.ops.member_rows import fits_rows

MOST_STATES = 256
"""States a channel that the kernels' tiles hold."""

Shape = tuple[int, ...]
PARAMETER_DIMS = {"A_log": 1, "D": 1, "dt_bias": 1, "initial_state": 3, "state_offset": 3, "output_offset": 2}
"""The arguments that are no batch's: their dimensions where all rows share them."""


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states and sums: float64 for float64 inputs, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def triton_kernels_run(operation: str, x: Tensor, states: int) -> bool:
    """Whether ``operation`` on ``x`` runs on the Triton kernels; otherwise on plain PyTorch.

    Raises:
        KernelError: backend=cuda is forced and cannot take these tensors; the reason is named.
    """
    obstacle = f"there may be at most {MOST_STATES} states a channel, got {states}" if states > MOST_STATES else None
    return backend.kernels_run(operation, x, channels=8, obstacle=obstacle, triton=True)


def check_scan(
    x: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, limits: tuple[float, float], **optional: Tensor | None
) -> None:
    """Raise ValueError for what does not belong together; ``optional`` by the names of the public function."""
    if x.dim() != 4 or not x.is_floating_point() or B.dim() != 4:
        raise ValueError(
            f"state_space_dual: x must be a floating (B, L, H, P) and B (B, L, G, N), got {_of(x)} and {_of(B)}"
        )
    rows, length, heads, width = x.shape
    parameters = [("A_log", A_log, ((heads,),)), *_per_head(heads, width, B.shape[3], rows, optional)]
    _check_group(
        "state_space_dual",
        x,
        limits,
        [
            ("dt", dt, ((rows, length, heads),)),
            ("B", B, ((rows, length, *B.shape[2:]),)),
            ("C", C, (tuple(B.shape),)),
            *(_of_members(*parameter, rows) for parameter in parameters),
        ],
        B.shape[2],
    )


def _of_members(
    name: str, tensor: Tensor | None, shapes: tuple[Shape, ...], rows: int
) -> tuple[str, Tensor | None, tuple[Shape, ...]]:
    """A parameter and its shapes; its own is one where it is that of members."""
    if tensor is not None and name in PARAMETER_DIMS and fits_rows(tensor.shape, shapes[0], rows):
        shapes = (tuple(tensor.shape),)
    return name, tensor, shapes


def check_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    limits: tuple[float, float],
    **optional: Tensor | None,
) -> None:
    """The same for a single position; ``source`` and ``into`` among the optional ones."""
    if x.dim() != 3 or not x.is_floating_point() or B.dim() != 3:
        raise ValueError(
            f"state_space_dual_update: x must be a floating (R, H, P) and B (R, G, N), got {_of(x)} and {_of(B)}"
        )
    rows, heads, width = x.shape
    states = B.shape[2]
    kept = state.shape[0] if optional["source"] is not None and optional["into"] is not None else rows
    _check_group(
        "state_space_dual_update",
        x,
        limits,
        [
            ("state", state, ((kept, heads, width, states),)),
            ("dt", dt, ((rows, heads),)),
            ("A_log", A_log, ((heads,),)),
            ("B", B, ((rows, *B.shape[1:]),)),
            ("C", C, (tuple(B.shape),)),
            ("source", optional.pop("source"), ((rows,),)),
            ("into", optional.pop("into"), ((rows, heads, width, states),)),
            *_per_head(heads, width, states, rows, optional),
        ],
        B.shape[1],
    )


def _per_head(
    heads: int, width: int, states: int, rows: int, given: dict[str, Tensor | None]
) -> list[tuple[str, Tensor | None, tuple[Shape, ...]]]:
    state = (heads, width, states)
    shapes: dict[str, tuple[Shape, ...]] = {
        "D": ((heads,),),
        "dt_bias": ((heads,),),
        "initial_state": (state, (rows, *state)),
        "state_offset": (state,),
        "output_offset": ((heads, width),),
        "lengths": ((rows,),),
    }
    return [(name, tensor, shapes[name]) for name, tensor in given.items()]


def _check_group(
    operation: str,
    x: Tensor,
    limits: tuple[float, float],
    expected: Sequence[tuple[str, Tensor | None, tuple[Shape, ...]]],
    groups: int,
) -> None:
    heads = x.shape[-2]
    if 0 in x.shape:
        raise ValueError(f"{operation}: no dimension may be empty, got x {_of(x)}")
    for name, tensor, shapes in expected:
        if tensor is None:
            continue
        if tuple(tensor.shape) not in shapes:
            wanted = " or ".join(str(shape) for shape in shapes)
            raise ValueError(f"{operation}: {name} must be {wanted} beside x {_of(x)}, got {_of(tensor)}")
        if tensor.device != x.device:
            raise ValueError(f"{operation}: {name} is on {tensor.device}, x on {x.device}")
        if 0 in tensor.shape:
            raise ValueError(f"{operation}: no dimension may be empty, got {name} {_of(tensor)}")
    if heads % groups:
        raise ValueError(f"{operation}: the {groups} groups of B and C must divide the {heads} heads of x")
    if not 0 <= limits[0] <= limits[1]:
        raise ValueError(f"{operation}: dt_limit must be (least, largest) with 0 <= least <= largest, got {limits}")


def _of(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
