"""ssm-tune bench: times of the GPU kernels, beside what the hardware allows and, where installed, mamba-ssm's."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from ssm_tune.errors import UserError

SHAPES = ((4, 1536, 64), (4, 1536, 256), (4, 1536, 1024), (32, 1536, 128), (16, 1536, 1024), (4, 4096, 256),
          (4, 4096, 1024), (4, 5120, 1024))  # fmt: skip
STATES = 16
_BYTES_OF_SETS = 3e8
"""Input sets are added until they are several times as large as an L2 cache, or eight."""
_ROW = "{:>16} {:>9} {:>17} {:>17} {:>17} {:>8} {:>15}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns 0.

    Raises:
        UserError: there is no CUDA device, or the kernels cannot run on it.
    """
    options = _parser().parse_args(argv)
    import torch

    from ssm_tune.ops import backend, rates

    if not torch.cuda.is_available():
        raise UserError("bench measures a GPU: PyTorch sees no CUDA device here")
    backend.choose("cuda", torch.device("cuda"), torch.bfloat16)
    copy, exponentials = rates.copy_rate(), rates.exponential_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: copies {copy / 1e12:.2f} TB/s, "
          f"{exponentials / 1e12:.2f} T exponentials/s")  # fmt: skip
    print(
        "bfloat16, N = 16, gradients of a frozen backbone; us, medians of CUDA graph replays over several input sets."
    )
    print("forward / forward and backward; offset: with state offset and initial state and their gradients.")
    print("floor: 16 exponentials an element, or the bytes; twice the exponentials for both directions.")
    print(_ROW.format("B x D x L", "segments", "ours", "ours with offset", "mamba-ssm", "speedup", "floor"))
    peer = _peer()
    for rows, channels, length in options.shapes or SHAPES:
        _line(rows, channels, length, peer, copy, exponentials)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssm-tune bench",
        description="Time the selective scan's CUDA kernels, forward and with gradients, beside what the device's "
        "memory and exponentials allow and, where mamba-ssm is installed, beside its kernel. Needs a CUDA device.",
        epilog="example: ssm-tune bench scan --shape 4x1536x1024",
    )
    parser.add_argument("what", choices=["scan"], help="scan: the selective scan, forward and backward")
    parser.add_argument("--shape", dest="shapes", action="append", type=_shape, metavar="BxDxL",
                        help="a shape of your own, e.g. 4x1536x1024 (may be repeated)")  # fmt: skip
    return parser


def _shape(text: str) -> tuple[int, int, int]:
    try:
        rows, channels, length = (int(number) for number in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form BxDxL") from None
    if min(rows, channels, length) < 1 or channels % 8:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1 on, D a multiple of 8")
    return rows, channels, length


def _line(rows: int, channels: int, length: int, peer: Any, copy: float, exponentials: float) -> None:
    import torch

    from ssm_tune.ops import rates
    from ssm_tune.ops.selective_scan.kernels import backward_plan

    elements = rows * channels * length
    count = max(2, min(8, int(_BYTES_OF_SETS / (6 * elements))))
    sets = [_inputs(rows, channels, length, seed) for seed in range(count)]
    times = {}
    for name, ours in (("ours", _ours(False)), ("offset", _ours(True)), ("peer", peer)):
        if ours is None:
            continue
        forward, both = ours
        with torch.no_grad():
            times[name] = [rates.microseconds(forward, sets)]
        times[name].append(rates.microseconds(both, sets))
    work = STATES * elements / exponentials * 1e6
    floor = max(work, 2 * 4 * elements / copy * 1e6), max(2 * work, 2 * 11 * elements / copy * 1e6)
    processors = torch.cuda.get_device_properties("cuda").multi_processor_count
    segments = backward_plan(STATES, channels, length, rows, processors, False)[1]
    shown = [f"{times[name][0]:.1f} / {times[name][1]:.1f}" if name in times else "-" for name in
             ("ours", "offset", "peer")]  # fmt: skip
    speedup = f"{times['peer'][1] / times['offset'][1]:.2f}" if "peer" in times else "-"
    print(_ROW.format(f"{rows} x {channels} x {length}", segments, *shown, speedup,
                      f"{floor[0]:.1f} / {floor[1]:.1f}"), flush=True)  # fmt: skip


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


def _ours(offset: bool) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    import torch

    from ssm_tune.ops.selective_scan import selective_scan

    def forward(s: dict[str, Any]) -> Any:
        return selective_scan(**s["flowing"], **s["frozen"], **(s["learned"] if offset else {}), dt_softplus=True)

    def both(s: dict[str, Any]) -> Any:
        wanted = [*s["flowing"].values(), *(s["learned"].values() if offset else ())]
        return torch.autograd.grad(forward(s), wanted, s["dout"])

    return forward, both


def _peer() -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """mamba-ssm's scan without an offset, in its own layout (B, D, L); None where it is not installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    import torch

    turned: dict[int, tuple[Any, ...]] = {}

    def inputs(s: dict[str, Any]) -> tuple[Any, ...]:
        if id(s) not in turned:
            flowing = {n: t.detach().transpose(1, 2).contiguous().requires_grad_() for n, t in s["flowing"].items()}
            turned[id(s)] = flowing, s["dout"].transpose(1, 2).contiguous()
        return turned[id(s)]

    def forward(s: dict[str, Any]) -> Any:
        x, frozen = inputs(s)[0], s["frozen"]
        return selective_scan_fn(x["u"], x["dt"], frozen["A"], x["B"], x["C"], frozen["D"], x["z"],
                                 frozen["dt_bias"], delta_softplus=True)  # fmt: skip

    def both(s: dict[str, Any]) -> Any:
        x, dout = inputs(s)
        return torch.autograd.grad(forward(s), list(x.values()), dout)

    return forward, both
