"""Steps a second of several runs of one model whose steps are computed together, beside one run at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import torch

from benchmarks.models import random_model
from benchmarks.table import Row, Table
from benchmarks.train_step import LABELS
from ssm_tune.config.groups import method_section
from ssm_tune.methods.adapter import attach, attach_members
from ssm_tune.methods.base import load_method
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.planning.profiling import training_on_random_tokens
from ssm_tune.training.members import begin_steps
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import UserError, first_line

METHODS = ("state_offset", "lora", "bitfit", "additional_scan")
SHAPES = {
    "cpu": (("tiny", 4, 32), ("tiny", 4, 64), ("tiny", 16, 64), ("mamba_25m", 4, 64)),
    "cuda": (("mamba_130m", 4, 64), ("mamba_130m", 4, 128), ("mamba_1b4", 4, 64)),
}
"""By device: the model, and rows and tokens of each member's batch."""
MEMBERS = {"cpu": (2, 4, 8), "cuda": (4, 16)}
_ROUNDS = 5
TABLE = Table(
    {
        "model": 11,
        "method": 15,
        "B x L": 8,
        "members": 7,
        "one, ms/step": 12,
        "together, ms/step of all": 24,
        "times the steps/s": 17,
    }
)


@dataclass(frozen=True)
class Case:
    model: str
    method: str
    rows: int
    length: int
    members: int


def run(models: Sequence[str], methods: Sequence[str], file: TextIO) -> dict[str, Any]:
    """Time the steps on the GPU, or without one on the CPU, printing a line for each case; returns what the JSON output
    holds.

    models, methods: only these; all where empty.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    about = (
        f"{name}, torch {torch.__version__}: random weights in {str(_dtype(device)).removeprefix('torch.')}, {LABELS} "
        "label tokens a row; medians of rounds in which each way has its turn\n"
        "one: a run by itself, on a GPU as CUDA graphs; together: launched singly"
    )
    cases = [
        Case(model, method, rows, length, members)
        for model, rows, length in SHAPES[device.type]
        for method in methods or METHODS
        for members in MEMBERS[device.type]
        if not models or model in models
    ]

    def found() -> Iterator[Row]:
        for case in cases:
            yield measured(case, device)

    return {"about": about, "rows": TABLE.print(about, found(), line, file)}


def measured(case: Case, device: torch.device) -> Row:
    """A row of the table; one that cannot be measured says why, under ``failed``."""
    row: Row = {**vars(case)}
    try:
        one, joined = _milliseconds(case, device)
    except (RuntimeError, UserError) as error:  # out of memory, above all
        return row | {"failed": first_line(error)}
    return row | {"one_milliseconds": one, "milliseconds": joined, "gain": case.members * one / joined}


def line(row: Row) -> str:
    cells = {"model": row["model"], "method": row["method"], "B x L": f"{row['rows']} x {row['length']}"}
    cells["members"] = str(row["members"])
    if "failed" in row:
        return TABLE.line(cells, row["failed"])
    cells |= {
        "one, ms/step": f"{row['one_milliseconds']:.1f}",
        "together, ms/step of all": f"{row['milliseconds']:.1f}",
        "times the steps/s": f"{row['gain']:.2f}",
    }
    return TABLE.line(cells)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _milliseconds(case: Case, device: torch.device) -> tuple[float, float]:
    """A step of one run, and a step of all members."""
    free_memory()
    shape = case.rows, case.length, case.rows * LABELS
    models = [random_model(case.model, device, _dtype(device)) for _ in range(2)]
    method = load_method(method_section(case.method, family=models[0].config.family))
    capture = CudaCapture(device) if device.type == "cuda" else None
    alone = training_on_random_tokens(attach(models[0], method), shape, capture)
    adapters = attach_members(models[1], method, range(case.members))
    members = [training_on_random_tokens(adapter, shape, None) for adapter in adapters]
    ways: list[Callable[[], int]] = [lambda: len(alone.train_steps()), lambda: step_of_all(members)]
    for way in ways:  # compiles, captures
        way()
        way()
    times: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for way, taken in zip(ways, times, strict=True):
            before = time.perf_counter()
            steps = way()
            taken.append(1e3 * (time.perf_counter() - before) / steps)
    return statistics.median(times[0]), statistics.median(times[1])


def step_of_all(members: Sequence[Trainer]) -> int:
    """A step of every member; 1."""
    begin_steps(members)
    for member in members:
        member.finish_step()
    for member in members:
        member.read_steps()
    return 1
