"""ssm-tune bench: times of the GPU kernels (bench_scan.py), of whole training steps (bench_step.py) and of decoding
(bench_generate.py), and of both on a CPU (bench_cpu.py)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from ssm_tune.commands import bench_cpu, bench_generate, bench_scan, bench_step
from ssm_tune.utils.errors import UserError

_READ_BY = {
    "--shape": ("shapes", "scan"), "--method": ("methods", "step"), "--model": ("models", "generate", "cpu"),
    "--cuda-graphs": ("cuda_graphs", "step"), "--memory": ("memory", "step"),
}  # fmt: skip
"""By option: its name in the namespace, and the benches that read it."""


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

    peer, said = bench_scan.find_peer()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "peer": said,
        "copy_bytes_per_second": rates.copy_rate(),
        "exponentials_per_second": rates.exponential_rate(),
        "rows": [],
    }
    print(bench_scan.heading(found), file=table, flush=True)
    shapes: Sequence[tuple[int, int, int]] = options.shapes or bench_scan.SHAPES
    for shape in shapes:
        times = bench_scan.measured(*shape, peer)
        row = bench_scan.summed_up(shape, times, found["copy_bytes_per_second"], found["exponentials_per_second"])
        found["rows"].append(row)
        print(bench_scan.line(row), file=table, flush=True)
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
