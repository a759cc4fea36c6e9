"""Sizes, tiles and memory of one scan's Triton kernels: fixed by shape, nothing is tuned at run time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

Limits = tuple[float, float]


class Tuning(NamedTuple):
    """Channels a head of a program's tile, its warps, and how many tiles ahead it loads."""

    width: int
    warps: int
    stages: int


WALK = Tuning(64, 8, 3)
OUTPUTS = Tuning(64, 4, 1)
HEADS = Tuning(32, 4, 1)
SHARED = Tuning(64, 4, 1)
"""As measured on an H200: bfloat16, 64 channels a head, 128 states."""
_HEADS_OF_STEPS = 8


@dataclass(frozen=True)
class Layout:
    """``chunk``: positions of a chunk; ``share``: heads of a group; ``limits``: of the step size."""

    rows: int
    length: int
    heads: int
    width: int
    groups: int
    states: int
    dtype: torch.dtype
    limits: Limits

    @classmethod
    def of(cls, given: dict[str, Any], limits: Limits) -> Layout:
        rows, length, heads, width = given["x"].shape
        groups, states = given["B"].shape[2:]
        return cls(rows, length, heads, width, groups, states, given["x"].dtype, limits)

    @property
    def exact(self) -> bool:
        return self.dtype != torch.bfloat16

    @property
    def chunk(self) -> int:
        return min(32 if self.dtype == torch.float32 else 64, max(16, triton.next_power_of_2(self.length)))

    @property
    def chunks(self) -> int:
        return -(-self.length // self.chunk)

    @property
    def share(self) -> int:
        return self.heads // self.groups

    @property
    def state(self) -> tuple[int, int, int]:
        return self.heads, self.width, self.states

    def vector(self, like: Tensor) -> Tensor:
        return like.new_empty(self.rows, self.heads, self.chunks * self.chunk, dtype=torch.float32)

    def border_states(self, like: Tensor) -> Tensor:
        """Memory for a state at each chunk's start or end. They enter matrix products, in this dtype."""
        dtype = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32
        return like.new_empty(self.rows, self.chunks, self.heads, self.states, self.width, dtype=dtype)

    def only_border(self, state: Tensor | None) -> Tensor | None:
        """A state (H, P, N) or (B, H, P, N) as (B, 1, H, P, N), where there is one chunk."""
        return None if state is None else state.unsqueeze(-4).expand(self.rows, 1, *self.state)

    def strides(self, borders: Tensor | None) -> tuple[int, int]:
        return (0, 0) if borders is None else (borders.stride(0), borders.stride(1))

    def inner_strides(self, prefixes: tuple[str, str] = ("P_STRIDE", "N_STRIDE")) -> dict[str, int]:
        """Of a state at a border, as ``border_states`` and ``only_border`` lie in memory."""
        return dict(zip(prefixes, (1, self.width) if self.chunks > 1 else (self.states, 1), strict=True))

    def programs(self, kernel: Tuning, device: torch.device) -> tuple[tuple[int, int], int, int]:
        """The grid of a kernel within chunks, how many heads of a group a program has, how many programs share a group:
        such that the last one ends soonest."""
        rows, slots = self.rows * self.chunks, _processors(device) * max(1, 8 // self._fitting(kernel).warps)
        each, splits = _division(self.share, rows * self.groups, slots)
        return (rows, self.groups * splits), each, splits

    def grid_of_steps(self) -> tuple[int, int]:
        return self.rows * self.chunks, -(-self.heads // _HEADS_OF_STEPS)

    @property
    def parts(self) -> int:
        """Tiles that the states of a channel make."""
        return -(-self.states // self._states_of_tile)

    @property
    def _states_of_tile(self) -> int:
        return min(128, max(16, triton.next_power_of_2(self.states)))

    def grid_of_walks(self) -> tuple[int, int, int]:
        return self.rows * self.heads, -(-self.width // self._width_of(self._fitting(WALK))), self.parts

    def options_of_steps(self) -> dict[str, Any]:
        return {"Q": self.chunk, "H_TILE": _HEADS_OF_STEPS, "EXACT": self.exact, "num_warps": 4}

    def options_of(self, kernel: Tuning) -> dict[str, Any]:
        """The constants and the launch options of a walk or of a kernel within chunks."""
        kernel = self._fitting(kernel)
        return {
            "P": self.width,
            "N": self.states,
            "Q": self.chunk,
            "P_TILE": self._width_of(kernel),
            "N_TILE": self._states_of_tile,
            "EXACT": self.exact,
            "DOT": tl.bfloat16 if self.dtype == torch.bfloat16 else tl.float32,
            "PRECISION": "tf32" if self.dtype == torch.float16 else "tf32x3",
            "num_warps": kernel.warps,
            "num_stages": kernel.stages,
        }

    def _fitting(self, kernel: Tuning) -> Tuning:
        """Smaller tiles for wider elements: others would not fit registers and shared memory. Two warps for narrow
        heads: four make products of a warp group, which Triton 3.6 compiles wrongly where a state at a border has rows
        of 32 numbers or less (wrong outputs, illegal memory accesses)."""
        if self.dtype == torch.bfloat16:
            return kernel if self.width > 32 else Tuning(kernel.width, 2, 1)
        return Tuning(16, 4, 1) if self.dtype == torch.float32 else Tuning(32, 8, 1)

    def _width_of(self, kernel: Tuning) -> int:
        return min(kernel.width, max(16, triton.next_power_of_2(self.width)))


@cache
def _division(share: int, groups: int, slots: int) -> tuple[int, int]:
    """Heads a program and programs a group, of ``share`` heads, with ``slots`` programs at a time. What a program does
    once counts as another head."""

    def taken(splits: int) -> int:
        return -(-groups * splits // slots) * (-(-share // splits) + 1)

    each = -(-share // min(range(1, share + 1), key=taken))
    return each, -(-share // each)


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
