"""Times and memory of training steps of a Mamba-2 beside a Mamba-1 of the same width and depth, in one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import torch

from benchmarks.models import random_model
from benchmarks.table import Row, Table
from benchmarks.train_step import LABELS
from ssm_tune.config.groups import method_section
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.planning.profiling import milliseconds_a_step, training_on_random_tokens, why_not_captured
from ssm_tune.utils.errors import UserError, first_line

METHODS = ("state_offset", "initial_state", "lora", "full")
SHAPES = (("mamba2_130m", "mamba_130m", 64), ("mamba2_130m", "mamba_130m", 1024), ("mamba2_1b3", "mamba_1b4", 256))
"""The Mamba-2, the Mamba-1 beside it, and tokens of a row."""
ROWS = 4
_SECONDS, _BLOCKS = 1.0, 5
TABLE = Table(
    {
        "model": 11,
        "method": 13,
        "B x L": 8,
        "trained": 11,
        "ms/step": 8,
        "tokens/s": 9,
        "peak GB": 8,
        "beside": 10,
        "ms/step of it": 13,
        "peak GB of it": 13,
        "speedup": 8,
    }
)


@dataclass(frozen=True)
class Case:
    model: str
    beside: str
    method: str
    length: int


def run(methods: Sequence[str], graphs: bool, file: TextIO) -> dict[str, Any]:
    """Time the steps on the GPU, printing a line for each case; returns what the JSON output holds.

    methods: only these; all where empty. graphs: as CUDA graphs.
    """
    about = (
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}: bfloat16, random weights, {LABELS} label tokens a "
        f"row, {'as CUDA graphs' if graphs else 'launched singly'}\n"
        "each family with its own defaults of the method; peak GB: with the weights; speedup: over the model beside it"
    )
    cases = [Case(own, other, method, length) for own, other, length in SHAPES for method in methods or METHODS]

    def rows() -> Iterator[Row]:
        for case in cases:
            yield measured(case, graphs)

    return {"about": about, "rows": TABLE.print(about, rows(), line, file)}


def measured(case: Case, graphs: bool) -> Row:
    """A row of the table; one that cannot be measured says why, under ``failed``."""
    row: Row = {"model": case.model, "beside": case.beside, "method": case.method, "batch": ROWS, "length": case.length}
    try:
        own, other = (_measured(model, case, graphs) for model in (case.model, case.beside))
    except (RuntimeError, UserError) as error:  # out of memory, above all
        return row | {"failed": first_line(error)}
    speedup = other["milliseconds"] / own["milliseconds"]
    return row | own | {f"beside_{name}": value for name, value in other.items()} | {"speedup": speedup}


def line(row: Row) -> str:
    cells = {"model": row["model"], "method": row["method"], "B x L": f"{row['batch']} x {row['length']}"}
    if "failed" in row:
        return TABLE.line(cells, row["failed"])
    cells |= {
        "trained": f"{row['trained']:,}",
        "ms/step": f"{row['milliseconds']:.2f}",
        "tokens/s": f"{1e3 * row['batch'] * row['length'] / row['milliseconds']:,.0f}",
        "peak GB": f"{row['peak_gb']:.2f}",
        "beside": row["beside"],
        "ms/step of it": f"{row['beside_milliseconds']:.2f}",
        "peak GB of it": f"{row['beside_peak_gb']:.2f}",
        "speedup": f"{row['speedup']:.2f}",
    }
    return TABLE.line(cells, row["note"] or row["beside_note"])


def _measured(name: str, case: Case, graphs: bool) -> Row:
    device = torch.device("cuda")
    free_memory()
    held = torch.cuda.memory_allocated()
    model = random_model(name, device, torch.bfloat16)
    adapter = attach(model, load_method(method_section(case.method, family=model.config.family)))
    shape = ROWS, case.length, ROWS * LABELS
    training = training_on_random_tokens(adapter, shape, CudaCapture(device) if graphs else None)
    torch.cuda.reset_peak_memory_stats()
    return {
        "milliseconds": milliseconds_a_step(training, _SECONDS, _BLOCKS),
        "peak_gb": (torch.cuda.max_memory_allocated() - held) / 1e9,
        "trained": adapter.trainable,
        "note": why_not_captured(training),
    }
