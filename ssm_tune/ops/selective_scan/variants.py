"""The variants of the scan's kernels: how states are spread over lanes, and what is compiled and asked for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import DTYPE_CODES

TILE = 32
"""Positions of a tile of the forward."""
CHUNK = 16
"""Positions between two of the states that the forward keeps (chunk states); a tile of the backward."""
GROUP = 4
"""Positions whose decays and states the backward holds in registers."""
THREADS = 128

_GRADIENTS = {
    "u": "D_U",
    "dt": "D_DT",
    "B": "D_B",
    "C": "D_C",
    "z": "D_Z",
    "A": "D_A",
    "D": "D_D",
    "dt_bias": "D_BIAS",
    "state_offset": "D_OFFSET",
    "output_offset": "D_OUTPUT",
}
"""The macro that stands for each gradient; the initial state's costs nothing and has none."""


@dataclass(frozen=True)
class Split:
    """How a channel's states are spread: over ``lanes`` adjacent lanes, ``states`` each; ``per`` channels a lane."""

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

    @property
    def orders(self) -> int:
        """Orders in which the backward's lanes keep their states (scan_backward.cu, ORDERS)."""
        part = 1
        while self.states % (2 * part) == 0:
            part *= 2
        return min(part, 32 // self.lanes)

    def macros(self, dtype: torch.dtype, tile: int, softplus: bool) -> dict[str, int]:
        """What all kernels of the scan are compiled with; tile: positions of a tile."""
        return {
            "DTYPE": DTYPE_CODES[dtype],
            "LANES": self.lanes,
            "STATES": self.states,
            "PER": self.per,
            "CHANNELS": self.channels,
            "RESIDENT": self.resident,
            "TILE": tile,
            "SOFTPLUS": int(softplus),
        }

    def pair(self, dtype: torch.dtype) -> int:
        """Bytes of one B and C in shared memory: packed where a lane has several channels."""
        return 2 * dtype.itemsize if self.per > 1 else 8


def chunk_state_dtype(dtype: torch.dtype, states: int) -> torch.dtype:
    """Dtype of the chunk states: that of bfloat16 activations where a lane copies pairs of them, else float32.

    float16 has not the range of a state.
    """
    narrow = dtype == torch.bfloat16 and split_of(states).states % 2 == 0
    return torch.bfloat16 if narrow else torch.float32


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
    two = split.states <= 4
    return Split(split.lanes, split.states, 2 if two else 1, 4 if two and split.lanes == 4 else 1)


def backward_plan(
    states: int, channels: int, length: int, rows: int, processors: int, all_gradients: bool
) -> tuple[Split, int]:
    """The backward's split, and the number of segments that time is cut into to fill the GPU."""
    one = split_of(states)
    per = 2 if one.states <= 4 else 1
    blocks = -(-channels // Split(one.lanes, one.states, per).channels) * rows
    resident = 2 if all_gradients or processors < blocks <= 2 * processors else 3
    segments = max(1, min(-(-length // CHUNK), resident * processors // blocks))
    return Split(one.lanes, one.states, per, resident), segments


def forward_kernel(
    dtype: torch.dtype, split: Split, states: int, softplus: bool, z: bool, offset: bool, keep: bool
) -> Kernel:
    own = {"CHUNK": CHUNK, "HAS_Z": int(z), "HAS_OFFSET": int(offset), "KEEP": int(keep)}
    own["NARROW"] = int(keep and chunk_state_dtype(dtype, states) == torch.bfloat16)
    return Kernel.of("scan_forward", split.macros(dtype, TILE, softplus) | own, "selective_scan/scan_forward")


def backward_kernel(
    dtype: torch.dtype, split: Split, states: int, softplus: bool, z: bool, offset: bool, wanted: dict[str, bool]
) -> Kernel:
    own = {"GROUP": GROUP, "HAS_Z": int(z), "HAS_OFFSET": int(offset)}
    own["NARROW"] = int(chunk_state_dtype(dtype, states) == torch.bfloat16)
    gradients = {macro: int(wanted[name]) for name, macro in _GRADIENTS.items()}
    return Kernel.of(
        "scan_backward", split.macros(dtype, CHUNK, softplus) | own | gradients, "selective_scan/scan_backward"
    )


def carry_kernel(dtype: torch.dtype, split: Split, softplus: bool, z: bool) -> Kernel:
    return Kernel.of(
        "scan_carry", split.macros(dtype, CHUNK, softplus) | {"HAS_Z": int(z)}, "selective_scan/scan_carry"
    )


def update_kernel(dtype: torch.dtype, split: Split, offset: bool) -> Kernel:
    own = {"LANES": split.lanes, "STATES": split.states, "SOFTPLUS": 1, "HAS_Z": 1, "HAS_OFFSET": int(offset)}
    return Kernel.of("state_update", {"DTYPE": DTYPE_CODES[dtype]} | own, "selective_scan/state_update")


def forward_shared(split: Split, dtype: torch.dtype, z: bool) -> int:
    """Bytes of shared memory of a forward block."""
    raw = 2 * (3 if z else 2) * split.channels * dtype.itemsize
    return TILE * (4 * 2 * (split.channels + 8) + split.wide * split.pair(dtype) + raw)


def backward_shared(split: Split, dtype: torch.dtype, z: bool) -> int:
    """Bytes of shared memory of a backward block."""
    raw = (7 if z else 5) * split.channels * dtype.itemsize
    sums = THREADS // 32 * 2 * split.wide
    heads = chunk_state_dtype(dtype, split.lanes * split.states).itemsize
    starts = (4 * (CHUNK // GROUP) + heads) * split.per * THREADS * split.states
    pairs = split.orders * split.wide * split.pair(dtype)
    copied = -(-CHUNK // (2 * (THREADS // split.wide))) * 4 * THREADS * dtype.itemsize
    return CHUNK * (4 * 3 * (split.channels + 8) + 4 * sums + pairs + raw) + starts + copied


def carry_shared(split: Split, dtype: torch.dtype, z: bool) -> int:
    """Bytes of shared memory of a block of the carry."""
    raw = (3 if z else 2) * split.channels * dtype.itemsize
    return CHUNK * (4 * (2 * (split.channels + 8) + split.wide) + raw)
