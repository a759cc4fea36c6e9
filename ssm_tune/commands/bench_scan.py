"""ssm-tune bench scan: times of the selective scan's CUDA kernels, beside what the hardware allows and, where
installed, mamba-ssm's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SHAPES = ((4, 1536, 64), (4, 1536, 256), (4, 1536, 1024), (32, 1536, 128), (16, 1536, 1024), (4, 4096, 256),
          (4, 4096, 1024), (4, 5120, 1024))  # fmt: skip
STATES = 16
_BYTES_OF_SETS = 3e8
"""Input sets are added until they are several times as large as an L2 cache, or eight."""
_TENSORS = 4, 11
"""Of B x D x L values, read or written once: u, dt, z, y; and with the backward dy, u, dt, z, du, d(dt), dz too."""
_ROW = "{:>16} {:>15} {:>15} {:>7} {:>17} {:>17} {:>8} {:>15} {:>9}"
_TITLES = ("B x D x L", "ours", "with offset", "added", "mamba-ssm", "launched singly", "speedup", "floor", "fwd/floor")

Work = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""Forward, and forward with backward, of one input set."""


def heading(found: dict[str, Any]) -> str:
    """What was measured, and the table's titles."""
    return "\n".join([
        f"{found['device']}, torch {found['torch']}: copies {found['copy_bytes_per_second'] / 1e12:.2f} TB/s, "
        f"{found['exponentials_per_second'] / 1e12:.2f} T exponentials/s; {found['peer']}",
        "bfloat16, N = 16, gradients of a frozen backbone; us, medians of CUDA graph replays over several input sets.",
        "forward / forward and backward. with offset: state offset and initial state and their gradients; added: what",
        "they add to both directions. mamba-ssm: without an offset, as a CUDA graph and launched singly; speedup: its",
        "graph's time over ours with offset, both directions. floor: the bytes, or 16 exponentials an element (twice",
        "that for both directions), whichever takes longer; fwd/floor: forward with offset over its floor.",
        _ROW.format(*_TITLES),
    ])  # fmt: skip


def summed_up(
    shape: tuple[int, int, int], times: dict[str, list[float]], copy: float, exponentials: float
) -> dict[str, Any]:
    """A row of the table: ``times`` (us, [forward, both directions] by name), the floors, and what they say together.

    Args:
        copy: bytes a second; exponentials: a second.
    """
    elements = shape[0] * shape[1] * shape[2]
    moved = [2 * tensors * elements / copy * 1e6 for tensors in _TENSORS]
    special = [directions * STATES * elements / exponentials * 1e6 for directions in (1, 2)]
    floor = [max(pair) for pair in zip(moved, special, strict=True)]
    row = {"shape": list(shape), "microseconds": times, "floor_bytes": moved, "floor_exponentials": special,
           "floor": floor, "added_percent": 100 * (times["offset"][1] / times["ours"][1] - 1),
           "forward_over_floor": times["offset"][0] / floor[0]}  # fmt: skip
    return row | ({"speedup": times["peer"][1] / times["offset"][1]} if "peer" in times else {})


def line(row: dict[str, Any]) -> str:
    times = row["microseconds"]

    def pair(values: list[float] | None) -> str:
        return "-" if values is None else f"{values[0]:.1f} / {values[1]:.1f}"

    return _ROW.format(
        " x ".join(map(str, row["shape"])), pair(times["ours"]), pair(times["offset"]),
        f"{row['added_percent']:+.1f}%", pair(times.get("peer")), pair(times.get("peer_eager")),
        f"{row['speedup']:.2f}" if "speedup" in row else "-", pair(row["floor"]), f"{row['forward_over_floor']:.2f}",
    )  # fmt: skip


def measured(rows: int, channels: int, length: int, peer: Work | None) -> dict[str, list[float]]:
    """us, [forward, forward and backward], by name: ours, offset, and with a peer peer and peer_eager."""
    import torch

    from ssm_tune.ops import rates

    count = max(2, min(8, int(_BYTES_OF_SETS / (6 * rows * channels * length))))
    sets = [_inputs(rows, channels, length, seed) for seed in range(count)]

    def time(works: Work, inputs: list[Any], clock: Callable[..., float]) -> list[float]:
        with torch.no_grad():
            forward = clock(works[0], inputs)
        return [forward, clock(works[1], inputs)]

    times = {
        name: time(_ours(offset), sets, rates.microseconds) for name, offset in (("ours", False), ("offset", True))
    }
    if peer is not None:
        turned = [_turned(s) for s in sets]
        times["peer"] = time(peer, turned, rates.microseconds)
        times["peer_eager"] = time(peer, turned, rates.eager_microseconds)
    return times


def _inputs(rows: int, channels: int, length: int, seed: int) -> dict[str, Any]:
    """Random inputs as a Mamba block makes them: x and z halves of one tensor, B and C slices of another."""
    import torch

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


def _turned(s: dict[str, Any]) -> dict[str, Any]:
    """The same in mamba-ssm's layout, (B, D, L), contiguous."""
    flowing = {n: t.detach().transpose(1, 2).contiguous().requires_grad_() for n, t in s["flowing"].items()}
    return {"flowing": flowing, "frozen": s["frozen"], "dout": s["dout"].transpose(1, 2).contiguous()}


def _ours(offset: bool) -> Work:
    import torch

    from ssm_tune.ops.selective_scan import selective_scan

    def forward(s: dict[str, Any]) -> Any:
        return selective_scan(**s["flowing"], **s["frozen"], **(s["learned"] if offset else {}), dt_softplus=True)

    def both(s: dict[str, Any]) -> Any:
        wanted = [*s["flowing"].values(), *(s["learned"].values() if offset else ())]
        return torch.autograd.grad(forward(s), wanted, s["dout"])

    return forward, both


def find_peer() -> tuple[Work | None, str]:
    """mamba-ssm's scan without an offset, on ``_turned`` inputs, and its version; or None and why not."""
    try:
        import mamba_ssm
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        return None, f"no mamba-ssm beside it ({error})"
    import torch

    def forward(s: dict[str, Any]) -> Any:
        x, frozen = s["flowing"], s["frozen"]
        return selective_scan_fn(x["u"], x["dt"], frozen["A"], x["B"], x["C"], frozen["D"], x["z"],
                                 frozen["dt_bias"], delta_softplus=True)  # fmt: skip

    def both(s: dict[str, Any]) -> Any:
        return torch.autograd.grad(forward(s), list(s["flowing"].values()), s["dout"])

    return (forward, both), f"mamba-ssm {mamba_ssm.__version__}"
