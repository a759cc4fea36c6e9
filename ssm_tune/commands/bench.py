"""ssm-tune bench: times of the GPU kernels, beside what the hardware allows and, where installed, mamba-ssm's; of whole
training steps (bench_step.py) and of decoding (bench_generate.py); and of both on a CPU (bench_cpu.py)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from ssm_tune.commands import bench_cpu, bench_generate, bench_step
from ssm_tune.errors import UserError

SHAPES = ((4, 1536, 64), (4, 1536, 256), (4, 1536, 1024), (32, 1536, 128), (16, 1536, 1024), (4, 4096, 256),
          (4, 4096, 1024), (4, 5120, 1024))  # fmt: skip
STATES = 16
_BYTES_OF_SETS = 3e8
"""Input sets are added until they are several times as large as an L2 cache, or eight."""
_TENSORS = 4, 11
"""Of B x D x L values, read or written once: u, dt, z, y; and with the backward dy, u, dt, z, du, d(dt), dz too."""
_ROW = "{:>16} {:>15} {:>15} {:>7} {:>17} {:>17} {:>8} {:>15} {:>9}"
_TITLES = ("B x D x L", "ours", "with offset", "added", "mamba-ssm", "launched singly", "speedup", "floor", "fwd/floor")

_READ_BY = {
    "--shape": ("shapes", "scan"), "--method": ("methods", "step"), "--model": ("models", "generate", "cpu"),
    "--cuda-graphs": ("cuda_graphs", "step"), "--memory": ("memory", "step"),
}  # fmt: skip
"""By option: its name in the namespace, and the benches that read it."""

Work = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""Forward, and forward with backward, of one input set."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns 0.

    Raises:
        UserError: there is no CUDA device, or the kernels cannot run on it; for ``cpu`` see bench_cpu.py.
    """
    options = _options(argv)
    if options.what != "cpu":
        _find_gpu(needed=options.what != "generate" or options.models != ["tiny"])
    table = sys.stdout if options.format == "text" else sys.stderr  # JSON shows its rows while it is being made
    found = {"scan": _scans, "step": _steps, "generate": _generations, "cpu": _on_cpu}[options.what](options, table)
    if options.format == "json":
        print(json.dumps(found, indent=1))
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; an option that the bench would pass by ends the program, as a mistyped one does."""
    parser = _parser()
    options = parser.parse_args(argv)
    for option, (name, *benches) in _READ_BY.items():
        if options.what not in benches and getattr(options, name) != parser.get_default(name):
            parser.error(f"{option} says nothing to bench {options.what}: it is for bench {' and '.join(benches)}")
    return options


def _find_gpu(needed: bool) -> None:
    import torch

    from ssm_tune.ops import backend

    if torch.cuda.is_available():
        backend.choose("cuda", torch.device("cuda"), torch.bfloat16)
    elif needed:
        raise UserError(
            "this bench measures a GPU: PyTorch sees no CUDA device here (bench cpu, and bench generate --model tiny, "
            "run without)"
        )


def _steps(options: argparse.Namespace, table: TextIO) -> dict[str, Any]:
    import torch

    capture = options.cuda_graphs == "auto"
    how = "as CUDA graphs" if capture else "launched singly"
    device = torch.cuda.get_device_name()
    found: dict[str, Any] = {
        "device": device, "torch": torch.__version__, "how": how, "memory": options.memory, "rows": [],
    }  # fmt: skip
    print(bench_step.heading(found), file=table, flush=True)
    for case in bench_step.CASES:
        if not options.methods or case.method in options.methods:
            found["rows"].append(bench_step.measured(case, capture, options.memory))
            print(bench_step.line(found["rows"][-1]), file=table, flush=True)
    return found


def _generations(options: argparse.Namespace, table: TextIO) -> dict[str, Any]:
    import torch

    from ssm_tune.ops import rates

    cuda = torch.cuda.is_available()
    copy = rates.copy_rate() if cuda else None
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "dtype": "bfloat16" if cuda else "float32",
        "copies": f"copies {copy / 1e12:.2f} TB/s" if copy else "launched singly",
        "copy_bytes_per_second": copy,
        "rows": [],
    }
    print(bench_generate.heading(found), file=table, flush=True)
    for case in bench_generate.CASES:
        if case.model in (options.models or ("mamba_130m", "mamba_1b4")):
            found["rows"].append(bench_generate.measured(case, copy))
            print(bench_generate.line(found["rows"][-1]), file=table, flush=True)
    return found


def _on_cpu(options: argparse.Namespace, table: TextIO) -> dict[str, Any]:
    cases = [case for case in bench_cpu.CASES if not options.models or case.model in options.models]
    if not cases:
        raise UserError(f"bench cpu has no rows of {', '.join(options.models)}: leave --model out, or take tiny")
    return bench_cpu.run(cases, table)


def _scans(options: argparse.Namespace, table: TextIO) -> dict[str, Any]:
    import torch

    from ssm_tune.ops import rates

    peer, said = _peer()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "peer": said,
        "copy_bytes_per_second": rates.copy_rate(),
        "exponentials_per_second": rates.exponential_rate(),
        "rows": [],
    }
    print(heading(found), file=table, flush=True)
    shapes: Sequence[tuple[int, int, int]] = options.shapes or SHAPES
    for shape in shapes:
        row = summed_up(shape, _measured(*shape, peer), found["copy_bytes_per_second"],
                        found["exponentials_per_second"])  # fmt: skip
        found["rows"].append(row)
        print(line(row), file=table, flush=True)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssm-tune bench",
        description="scan: time the selective scan's CUDA kernels, forward and with gradients, beside what the "
        "device's memory and exponentials allow and, where mamba-ssm is installed, beside its kernel. step: time whole "
        "training steps on random weights of the real sizes, beside the official code's. generate: decode with such "
        "weights, beside what the memory's rate allows and the official code. These need a CUDA device. cpu: steps and "
        "decoding on the CPU beside transformers' and peft's, which have to be installed.",
        epilog="examples: ssm-tune bench scan --shape 4x1536x1024; ssm-tune bench generate --model mamba_130m; "
        "ssm-tune bench cpu --format json",
    )
    parser.add_argument("what", choices=["scan", "step", "generate", "cpu"], help="what is timed")
    parser.add_argument("--shape", dest="shapes", action="append", type=_shape, metavar="BxDxL",
                        help="scan: a shape of your own, e.g. 4x1536x1024 (may be repeated)")  # fmt: skip
    parser.add_argument("--method", dest="methods", action="append", metavar="NAME",
                        choices=sorted({case.method for case in bench_step.CASES}),
                        help="step: only this method's rows (may be repeated)")  # fmt: skip
    parser.add_argument("--model", dest="models", action="append", choices=list(bench_step.SIZES), metavar="NAME",
                        help="generate, cpu: only this model's rows; generate times tiny's on a CPU too (may be "
                             "repeated)")  # fmt: skip
    parser.add_argument("--cuda-graphs", choices=["auto", "off"], default="auto",
                        help="step: as train.cuda_graphs")  # fmt: skip
    parser.add_argument("--memory", type=_positive, metavar="SHARE",
                        help="step: keep to this share of the official code's peak above the weights, e.g. 0.5, by "
                        "computing blocks' activations again")  # fmt: skip
    parser.add_argument("--format", choices=["text", "json"], default="text",
                        help="text: the table; json: one object on stdout, the table on stderr")  # fmt: skip
    return parser


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def _shape(text: str) -> tuple[int, int, int]:
    try:
        rows, channels, length = (int(number) for number in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form BxDxL") from None
    if min(rows, channels, length) < 1 or channels % 8:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1 on, D a multiple of 8")
    return rows, channels, length


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


def _measured(rows: int, channels: int, length: int, peer: Work | None) -> dict[str, list[float]]:
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


def _peer() -> tuple[Work | None, str]:
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
