"""Times of the selective scan's CUDA kernels, beside what the device allows and, where installed, mamba-ssm's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import torch

from benchmarks.device_limits import copy_rate, eager_microseconds, exponential_rate, microseconds
from benchmarks.table import Row, Table
from ssm_tune.ops.selective_scan import selective_scan

Shape = tuple[int, int, int]
"""B, D, L."""
SHAPES: tuple[Shape, ...] = (
    (4, 1536, 64),
    (4, 1536, 256),
    (4, 1536, 1024),
    (32, 1536, 128),
    (16, 1536, 1024),
    (4, 4096, 256),
    (4, 4096, 1024),
    (4, 5120, 1024),
)
STATES = 16
_BYTES_OF_SETS = 3e8
"""Input sets are added until they are several times as large as an L2 cache, or eight."""
_TENSORS = 4, 11
"""Of B x D x L values, read or written once: u, dt, z, y; and with the backward dy, u, dt, z, du, d(dt), dz too."""
TABLE = Table(
    {
        "B x D x L": 16,
        "ours": 15,
        "with offset": 15,
        "added": 7,
        "mamba-ssm": 17,
        "launched singly": 17,
        "speedup": 8,
        "floor": 15,
        "fwd/floor": 9,
    }
)

Work = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""Forward, and forward with backward, of one input set."""


def run(shapes: Sequence[Shape], file: TextIO) -> dict[str, Any]:
    """Time the shapes on the GPU, printing a line for each; returns what the JSON output holds."""
    peer, version = find_peer()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "peer": version,
        "copy_bytes_per_second": copy_rate(),
        "exponentials_per_second": exponential_rate(),
    }

    def rows() -> Iterator[Row]:
        for shape in shapes:
            times = measured(*shape, peer)
            yield summed_up(shape, times, found["copy_bytes_per_second"], found["exponentials_per_second"])

    return found | {"rows": TABLE.print(about(found), rows(), line, file)}


def about(found: dict[str, Any]) -> str:
    """What was measured, and what the columns hold."""
    return f"""\
{found["device"]}, torch {found["torch"]}: copies {found["copy_bytes_per_second"] / 1e12:.2f} TB/s, \
{found["exponentials_per_second"] / 1e12:.2f} T exponentials/s; {found["peer"]}
bfloat16, N = {STATES}, gradients of a frozen backbone; us, medians of CUDA graph replays over several input sets.
forward / forward and backward. with offset: state offset and initial state and their gradients; added: what
they add to both directions. mamba-ssm: without an offset, as a CUDA graph and launched singly; speedup: its
graph's time over ours with offset, both directions. floor: the bytes, or {STATES} exponentials an element (twice
that for both directions), whichever takes longer; fwd/floor: forward with offset over its floor."""


def summed_up(shape: Shape, times: dict[str, list[float]], copy: float, exponentials: float) -> Row:
    """A row of the table: ``times`` (us, [forward, both directions] by name), the floors, and what they say together.

    copy: bytes a second; exponentials: a second.
    """
    elements = shape[0] * shape[1] * shape[2]
    moved = [2 * tensors * elements / copy * 1e6 for tensors in _TENSORS]
    special = [directions * STATES * elements / exponentials * 1e6 for directions in (1, 2)]
    floor = [max(pair) for pair in zip(moved, special, strict=True)]
    row = {
        "shape": list(shape),
        "microseconds": times,
        "floor_bytes": moved,
        "floor_exponentials": special,
        "floor": floor,
        "added_percent": 100 * (times["offset"][1] / times["ours"][1] - 1),
        "forward_over_floor": times["offset"][0] / floor[0],
    }
    return row | ({"speedup": times["peer"][1] / times["offset"][1]} if "peer" in times else {})


def line(row: Row) -> str:
    times = row["microseconds"]

    def pair(values: list[float]) -> str:
        return f"{values[0]:.1f} / {values[1]:.1f}"

    cells = {
        "B x D x L": " x ".join(map(str, row["shape"])),
        "ours": pair(times["ours"]),
        "with offset": pair(times["offset"]),
        "added": f"{row['added_percent']:+.1f}%",
        "floor": pair(row["floor"]),
        "fwd/floor": f"{row['forward_over_floor']:.2f}",
    }
    if "peer" in times:
        cells |= {
            "mamba-ssm": pair(times["peer"]),
            "launched singly": pair(times["peer_eager"]),
            "speedup": f"{row['speedup']:.2f}",
        }
    return TABLE.line(cells)


def measured(rows: int, channels: int, length: int, peer: Work | None) -> dict[str, list[float]]:
    """us, [forward, forward and backward], by name: ours, offset, and with a peer peer and peer_eager."""
    count = max(2, min(8, int(_BYTES_OF_SETS / (6 * rows * channels * length))))
    sets = [_inputs(rows, channels, length, seed) for seed in range(count)]

    def time(works: Work, inputs: list[Any], clock: Callable[..., float]) -> list[float]:
        with torch.no_grad():
            forward = clock(works[0], inputs)
        return [forward, clock(works[1], inputs)]

    times = {"ours": time(_ours(False), sets, microseconds), "offset": time(_ours(True), sets, microseconds)}
    if peer is not None:
        theirs = [_in_their_layout(s) for s in sets]
        times["peer"] = time(peer, theirs, microseconds)
        times["peer_eager"] = time(peer, theirs, eager_microseconds)
    return times


def _inputs(rows: int, channels: int, length: int, seed: int) -> dict[str, Any]:
    """Random inputs as a Mamba block makes them: x and z halves of one tensor, B and C slices of another."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    x, z = draw(rows, length, 2 * channels).bfloat16().chunk(2, dim=-1)
    _, B, C = draw(rows, length, 48 + 2 * STATES).bfloat16().split([48, STATES, STATES], dim=-1)
    flowing = {"u": x, "dt": (draw(rows, length, channels) - 2).bfloat16(), "B": B, "C": C, "z": z}
    frozen = {"A": -(draw(channels, STATES).abs() * 8 + 0.01), "D": draw(channels), "dt_bias": draw(channels)}
    learned = {"initial_state": draw(channels, STATES), "state_offset": draw(channels, STATES)}
    return {
        "flowing": {name: tensor.detach().requires_grad_() for name, tensor in flowing.items()},
        "frozen": frozen,
        "learned": {name: tensor.requires_grad_() for name, tensor in learned.items()},
        "dout": draw(rows, length, channels).bfloat16(),
    }


def _in_their_layout(s: dict[str, Any]) -> dict[str, Any]:
    """The same inputs in mamba-ssm's layout, (B, D, L), contiguous."""
    flowing = {n: t.detach().transpose(1, 2).contiguous().requires_grad_() for n, t in s["flowing"].items()}
    return {"flowing": flowing, "frozen": s["frozen"], "dout": s["dout"].transpose(1, 2).contiguous()}


def _ours(offset: bool) -> Work:
    def forward(s: dict[str, Any]) -> Any:
        return selective_scan(**s["flowing"], **s["frozen"], **(s["learned"] if offset else {}), dt_softplus=True)

    def both(s: dict[str, Any]) -> Any:
        wanted = [*s["flowing"].values(), *(s["learned"].values() if offset else ())]
        return torch.autograd.grad(forward(s), wanted, s["dout"])

    return forward, both


def find_peer() -> tuple[Work | None, str]:
    """mamba-ssm's scan without an offset, on ``_in_their_layout`` inputs, and its version; or None and why not."""
    try:
        import mamba_ssm
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        return None, f"no mamba-ssm beside it ({error})"

    def forward(s: dict[str, Any]) -> Any:
        x, frozen = s["flowing"], s["frozen"]
        return selective_scan_fn(
            x["u"], x["dt"], frozen["A"], x["B"], x["C"], frozen["D"], x["z"], frozen["dt_bias"], delta_softplus=True
        )

    def both(s: dict[str, Any]) -> Any:
        return torch.autograd.grad(forward(s), list(s["flowing"].values()), s["dout"])

    return (forward, both), f"mamba-ssm {mamba_ssm.__version__}"
