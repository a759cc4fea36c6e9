"""Times of Mamba-2's scan, beside what the device allows and, where installed, mamba-ssm's Triton kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import torch

from benchmarks.device_limits import copy_rate, microseconds
from benchmarks.table import Row, Table
from ssm_tune.ops.state_space_dual import state_space_dual

Shape = tuple[int, int, int]
"""B, L, H."""
SHAPES: tuple[Shape, ...] = tuple(
    (rows, length, heads) for heads in (24, 64) for rows, length in ((4, 64), (4, 256), (4, 1024), (16, 1024))
)
WIDTH, STATES = 64, 128
_THEIR_CHUNK = 256
_BYTES_OF_SETS = 3e8
_TENSORS = 2, 5
"""Of B x L x H x P values, read or written once: x, y; and with the backward dy, x, dx too."""
_PRODUCTS = 4 * STATES * WIDTH, 10 * STATES * WIDTH
"""Operations a position and head that no chunk size does without: into and out of the state, and both gradients'."""
TABLE = Table({"B x L x H": 14, "ours": 17, "with offset": 17, "mamba-ssm": 17, "fwd": 6, "both": 6, "floor": 15})

Work = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""Forward, and forward with backward, of one input set."""


def run(shapes: Sequence[Shape], file: TextIO) -> dict[str, Any]:
    """Time the shapes on the GPU, printing a line for each; returns what the JSON output holds."""
    theirs, version = find_mamba_ssm()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "mamba_ssm": version,
        "copy_bytes_per_second": copy_rate(),
        "products_per_second": product_rate(),
    }

    def rows() -> Iterator[Row]:
        for shape in shapes:
            times = measured(*shape, theirs)
            yield summed_up(shape, times, found["copy_bytes_per_second"], found["products_per_second"])

    return found | {"rows": TABLE.print(about(found), rows(), line, file)}


def about(found: dict[str, Any]) -> str:
    """What was measured, and what the columns hold."""
    return f"""\
{found["device"]}, torch {found["torch"]}: copies {found["copy_bytes_per_second"] / 1e12:.2f} TB/s, products \
{found["products_per_second"] / 1e12:.0f} TFLOP/s; {found["mamba_ssm"]}
bfloat16, P = {WIDTH}, N = {STATES}, G = 1, gradients of a frozen backbone; us, medians of CUDA graph replays over
several input sets. forward / forward and backward. with offset: state offset and initial state and their
gradients. mamba-ssm: without them, chunks of {_THEIR_CHUNK}. fwd, both: its time over ours with offset. floor:
the bytes or the matrix products that no chunk size does without, whichever takes longer."""


def summed_up(shape: Shape, times: dict[str, list[float]], copy: float, products: float) -> Row:
    """A row of the table: ``times`` (us, [forward, both directions] by name), the floors, and how many times faster."""
    heads = shape[0] * shape[1] * shape[2]
    moved = [2 * tensors * heads * WIDTH / copy * 1e6 for tensors in _TENSORS]
    computed = [operations * heads / products * 1e6 for operations in _PRODUCTS]
    row = {
        "shape": list(shape),
        "microseconds": times,
        "floor_bytes": moved,
        "floor_products": computed,
        "floor": [max(pair) for pair in zip(moved, computed, strict=True)],
    }
    if "mamba_ssm" in times:
        pairs = zip(times["mamba_ssm"], times["offset"], strict=True)
        row["speedups"] = [theirs / ours for theirs, ours in pairs]
    return row


def line(row: Row) -> str:
    times = row["microseconds"]

    def pair(values: list[float]) -> str:
        return f"{values[0]:.1f} / {values[1]:.1f}"

    cells = {
        "B x L x H": " x ".join(map(str, row["shape"])),
        "ours": pair(times["ours"]),
        "with offset": pair(times["offset"]),
        "floor": pair(row["floor"]),
    }
    if "mamba_ssm" in times:
        forward, both = row["speedups"]
        cells |= {"mamba-ssm": pair(times["mamba_ssm"]), "fwd": f"{forward:.2f}", "both": f"{both:.2f}"}
    return TABLE.line(cells)


def measured(rows: int, length: int, heads: int, theirs: Work | None) -> dict[str, list[float]]:
    """us, [forward, forward and backward], by name: ours, offset, and mamba_ssm where it is there."""
    count = max(2, min(8, int(_BYTES_OF_SETS / (4 * rows * length * heads * WIDTH))))
    sets = [inputs(rows, length, heads, seed) for seed in range(count)]

    def time(works: Work) -> list[float]:
        with torch.no_grad():
            forward = microseconds(works[0], sets)
        return [forward, microseconds(works[1], sets)]

    times = {"ours": time(_ours(False)), "offset": time(_ours(True))}
    return times | ({} if theirs is None else {"mamba_ssm": time(theirs)})


def inputs(rows: int, length: int, heads: int, seed: int) -> dict[str, Any]:
    """Random inputs as a Mamba-2 block makes them: x, B and C slices of one tensor."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    inner = heads * WIDTH
    x, B, C = draw(rows, length, inner + 2 * STATES).bfloat16().split([inner, STATES, STATES], dim=-1)
    flowing = {
        "x": x.unflatten(2, (heads, WIDTH)),
        "dt": draw(rows, length, heads).bfloat16(),
        "B": B.unsqueeze(2),
        "C": C.unsqueeze(2),
    }
    state = heads, WIDTH, STATES
    return {
        "flowing": {name: tensor.detach().requires_grad_() for name, tensor in flowing.items()},
        "frozen": {"A_log": draw(heads).abs(), "D": draw(heads), "dt_bias": draw(heads) - 4},
        "learned": {name: draw(*state).requires_grad_() for name in ("initial_state", "state_offset")},
        "dy": draw(rows, length, heads, WIDTH).bfloat16(),
    }


def _ours(offset: bool) -> Work:
    def forward(s: dict[str, Any]) -> Any:
        return state_space_dual(**s["flowing"], **s["frozen"], **(s["learned"] if offset else {}))

    def both(s: dict[str, Any]) -> Any:
        wanted = [*s["flowing"].values(), *(s["learned"].values() if offset else ())]
        return torch.autograd.grad(forward(s), wanted, s["dy"])

    return forward, both


def find_mamba_ssm() -> tuple[Work | None, str]:
    """mamba-ssm's scan without an offset, and its version; or None and why not."""
    try:
        import mamba_ssm
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError as error:
        return None, f"no mamba-ssm beside it ({error})"

    def forward(s: dict[str, Any]) -> Any:
        x, frozen = s["flowing"], s["frozen"]
        return mamba_chunk_scan_combined(
            x["x"],
            x["dt"],
            -frozen["A_log"].exp(),
            x["B"],
            x["C"],
            _THEIR_CHUNK,
            D=frozen["D"],
            dt_bias=frozen["dt_bias"],
            dt_softplus=True,
        )

    def both(s: dict[str, Any]) -> Any:
        return torch.autograd.grad(forward(s), list(s["flowing"].values()), s["dy"])

    return (forward, both), f"mamba-ssm {mamba_ssm.__version__}"


def product_rate() -> float:
    """Operations a second of a large bfloat16 matrix product."""
    sets = [[torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2)]]
    return 2 * 8192**3 / microseconds(lambda pair: pair[0] @ pair[1], sets) * 1e6
