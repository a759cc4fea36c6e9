"""The command line of the benchmarks: scan, ssd, step, families, members, generate, cpu and sweep."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import cpu, families, generate, members, scan, state_space_dual, sweep, train_step
from benchmarks.models import SIZES
from benchmarks.official import train_steps
from ssm_tune.ops import backend
from ssm_tune.utils.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of the benchmark that was asked for; returns 0.

    Raises:
        UserError: there is no CUDA device, or the kernels cannot run on it; for ``cpu`` see cpu.py.
    """
    options = _parser().parse_args(argv)
    table = sys.stdout if options.format == "text" else sys.stderr  # JSON shows its rows while it is being made
    found = options.benchmark(options, table)
    if options.format == "json":
        print(json.dumps(found, indent=1))
    return 0


def exit_status(work: Callable[[], int]) -> int:
    """Run ``work`` with errors for the user as one line on stderr: 0 done, 2 a UserError, 130 Ctrl-C."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _scan(options: argparse.Namespace, file: Any) -> dict[str, Any]:
    _require_gpu()
    return scan.run(options.shapes or scan.SHAPES, file)


def _ssd(options: argparse.Namespace, file: Any) -> dict[str, Any]:
    _require_gpu()
    backend.use("cuda")  # the kernels run where they are asked for by name
    return state_space_dual.run(options.shapes or state_space_dual.SHAPES, file)


def _step(options: argparse.Namespace, file: Any) -> dict[str, Any]:
    _require_gpu()
    return train_step.run(options.methods or (), options.cuda_graphs == "auto", options.memory, file)


def _families(options: argparse.Namespace, file: Any) -> dict[str, Any]:
    _require_gpu()
    return families.run(options.methods or (), options.cuda_graphs == "auto", file)


def _members(options: argparse.Namespace, file: Any) -> dict[str, Any]:
    if torch.cuda.is_available():
        _require_gpu()
    return members.run(options.models or (), options.methods or (), file)


def _generate(options: argparse.Namespace, file: Any) -> dict[str, Any]:
    if torch.cuda.is_available() or options.models != ["tiny"]:
        _require_gpu()
    return generate.run(options.models or (), file)


def _cpu(options: argparse.Namespace, file: Any) -> dict[str, Any]:
    return cpu.run(options.models or (), file)


def _sweep(options: argparse.Namespace, file: Any) -> dict[str, Any]:
    return sweep.run(options.settings, options.processes, file)


def _require_gpu() -> None:
    if not torch.cuda.is_available():
        raise UserError(
            "this benchmark measures a GPU, and PyTorch finds no CUDA device here; on a CPU: "
            "python -m benchmarks cpu, or python -m benchmarks generate --model tiny"
        )
    backend.choose("cuda", torch.device("cuda"), torch.bfloat16)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Timings. All but cpu, members, sweep, and generate --model tiny, need a CUDA device.",
        epilog="examples: python -m benchmarks scan --shape 4x1536x1024; python -m benchmarks generate --model "
        "mamba_130m; python -m benchmarks cpu --format json. The paper's whole grid: python -m benchmarks.paper_grid",
    )
    commands = parser.add_subparsers(required=True, metavar="scan|ssd|step|families|members|generate|cpu|sweep")

    def add(name: str, benchmark: Callable[..., dict[str, Any]], what: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=what, description=what)
        command.set_defaults(benchmark=benchmark)
        command.add_argument(
            "--format",
            choices=["text", "json"],
            default="text",
            help="text: the table; json: one object on stdout, the table on stderr",
        )
        return command

    command = add("scan", _scan, "the selective scan's CUDA kernels, beside the device's limits and mamba-ssm's kernel")
    _shapes(command, _shape, "BxDxL", "4x1536x1024")
    command = add("ssd", _ssd, "Mamba-2's scan, beside the device's limits and mamba-ssm's Triton kernels")
    _shapes(command, _three, "BxLxH", "4x1024x24")
    command = add("step", _step, "whole training steps on random weights of the real sizes, beside the official code's")
    _only(command, "method", sorted({case.method for case in train_steps()}))
    command.add_argument("--cuda-graphs", choices=["auto", "off"], default="auto", help="as train.cuda_graphs")
    command.add_argument(
        "--memory",
        type=_positive,
        metavar="SHARE",
        help="keep to this share of the official code's peak above the weights, e.g. 0.5, by recomputing activations",
    )
    command = add("families", _families, "training steps of Mamba-2 beside Mamba-1's of the same shapes")
    _only(command, "method", families.METHODS)
    command.add_argument("--cuda-graphs", choices=["auto", "off"], default="auto", help="as train.cuda_graphs")
    command = add("members", _members, "steps of several runs computed together, beside one run at a time")
    _only(command, "model", sorted({model for shapes in members.SHAPES.values() for model, *_ in shapes}))
    _only(command, "method", members.METHODS)
    for command in (
        add("generate", _generate, "decoding with such weights, beside the memory's limit and the official code's"),
        add(
            "cpu", _cpu, "training steps and decoding on the CPU beside transformers and peft, which must be installed"
        ),
    ):
        _only(command, "model", list(SIZES))
    command = add("sweep", _sweep, "a sweep with a process for each run, and the same in workers that do many")
    command.add_argument("settings", nargs="*", metavar="SETTING", help="as behind ssm-tune -m (default: 16 runs)")
    command.add_argument("--processes", type=_count, metavar="N", help="at a time (default: one a core)")
    return parser


def _only(command: argparse.ArgumentParser, what: str, choices: Sequence[str]) -> None:
    command.add_argument(
        f"--{what}",
        dest=f"{what}s",
        action="append",
        metavar="NAME",
        choices=choices,
        help=f"only this {what}'s rows (may be repeated)",
    )


def _shapes(command: argparse.ArgumentParser, of: Callable[[str], Any], form: str, example: str) -> None:
    command.add_argument(
        "--shape",
        dest="shapes",
        action="append",
        type=of,
        metavar=form,
        help=f"a shape of your own, e.g. {example} (may be repeated)",
    )


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _three(text: str) -> tuple[int, int, int]:
    try:
        first, second, third = (int(number) for number in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three whole numbers with an x between them") from None
    if min(first, second, third) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1 on")
    return first, second, third


def _shape(text: str) -> tuple[int, int, int]:
    rows, channels, length = _three(text)
    if channels % 8:
        raise argparse.ArgumentTypeError(f"{text!r}: D must be a multiple of 8")
    return rows, channels, length
