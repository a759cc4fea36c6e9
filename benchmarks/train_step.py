"""Times of whole training steps on random weights of the real sizes, beside the official code's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import torch

from benchmarks.models import random_model
from benchmarks.official import TrainStep, train_steps
from benchmarks.table import Row, Table
from ssm_tune.config.groups import method_section
from ssm_tune.data.collator import length_bucket
from ssm_tune.methods.adapter import Adapter, attach
from ssm_tune.methods.base import load_method
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.planning.profiling import milliseconds_a_step, training_on_random_tokens, why_not_captured
from ssm_tune.training.recompute_plan import TRAINED_COPIES, RecomputePlan, plan_recompute, workspaces
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import UserError, first_line

LABELS = 32
"""Label positions a row."""
_SECONDS, _BLOCKS = 1.0, 5
"""Measured at least: seconds, and blocks of steps."""
TABLE = Table(
    {
        "model": 10,
        "method": 15,
        "B x L": 8,
        "ms/step": 9,
        "official": 10,
        "speedup": 8,
        "tokens/s": 9,
        "weights GB": 10,
        "peak GB": 8,
        "official GB": 11,
    }
)


def run(methods: Sequence[str], graphs: bool, share: float | None, file: TextIO) -> dict[str, Any]:
    """Time the official code's cases on the GPU, printing a line for each; returns what the JSON output holds.

    methods: only these; all where empty. graphs: as CUDA graphs. share: see ``measured``.
    """
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "how": "as CUDA graphs" if graphs else "launched singly",
        "memory": share,
    }

    def rows() -> Iterator[Row]:
        for case in train_steps():
            if not methods or case.method in methods:
                yield measured(case, graphs, share)

    return found | {"rows": TABLE.print(about(found), rows(), line, file)}


def about(found: dict[str, Any]) -> str:
    """What was measured, and what the columns hold."""
    text = f"""\
{found["device"]}, torch {found["torch"]}: steps {found["how"]}, bfloat16, {LABELS} label tokens a row
ms/step: medians over blocks of steps, the making of batches and the host's reads included. peak GB: with the
weights, whose GB stand before it. official: the official code's steps, launched singly, measured on an H200."""
    if found["memory"] is not None:
        text += (
            f"\nallowed: the weights and {found['memory']:g} of the official code's peak above them; to keep to it, "
            "the activations of blocks, or of parts of them, are recomputed."
        )
    return text


def line(row: Row) -> str:
    cells = {"model": row["model"], "method": row["method"], "B x L": f"{row['batch']} x {row['length']}"}
    if "failed" in row:
        return TABLE.line(cells, row["failed"])
    notes = []
    if "recomputed_blocks" in row:
        notes.append(
            f"recomputed: {row['recomputed_blocks']} of {row['layers']} blocks, parts of "
            f"{row['partly_recomputed_blocks']}, allowed {row['allowed_gb']:.2f} GB"
        )
    if row["note"]:
        notes.append(row["note"])
    cells |= {
        "ms/step": f"{row['milliseconds']:.2f}",
        "official": f"{row['official_milliseconds']:.1f}",
        "speedup": f"{row['speedup']:.1f}",
        "tokens/s": f"{row['tokens_per_second']:,.0f}",
        "weights GB": f"{row['weights_gb']:.2f}",
        "peak GB": f"{row['peak_gb']:.2f}",
        "official GB": f"{row['official_peak_gb']:.2f}",
    }
    return TABLE.line(cells, "  ".join(notes))


def measured(case: TrainStep, graphs: bool, share: float | None = None) -> Row:
    """A row of the table; one that cannot be measured says why, under ``failed``.

    share: of the official code's peak above the weights, to be kept to; None: as much memory as there is.
    """
    row: Row = {"model": case.model, "method": case.method, "batch": case.batch_size, "length": case.length}
    try:
        row |= _measured(case, graphs, share)
    except (RuntimeError, UserError) as error:  # out of memory, above all
        return row | {"failed": first_line(error)}
    return row | {
        "tokens_per_second": 1e3 * case.batch_size * case.length / row["milliseconds"],
        "speedup": case.ms / row["milliseconds"],
        "official_milliseconds": case.ms,
        "official_peak_gb": case.peak_gb,
    }


def _measured(case: TrainStep, graphs: bool, share: float | None) -> Row:
    device = torch.device("cuda")
    chosen = None if share is None else planned(case, graphs, share, device)
    free_memory()
    held = torch.cuda.memory_allocated()  # what earlier rows, and the plan, have left: cuBLAS's workspaces, for one
    training, weights = _training(case, graphs, device)
    torch.cuda.reset_peak_memory_stats()
    row: Row = {"weights_gb": weights / 1e9}
    if chosen is not None and share is not None:
        chosen.apply(training.adapter.model)
        row |= {
            "recomputed_blocks": chosen.recompute.whole,
            "partly_recomputed_blocks": chosen.recompute.partly,
            "layers": chosen.memory.layers,
            "allowed_gb": (weights + share_of_official(case, weights, share)) / 1e9,
        }
    return row | {
        "milliseconds": milliseconds_a_step(training, _SECONDS, _BLOCKS),
        "peak_gb": (torch.cuda.max_memory_allocated() - held) / 1e9,
        "note": why_not_captured(training),
    }


def _training(case: TrainStep, graphs: bool, device: torch.device) -> tuple[Trainer, int]:
    """A training on random tokens, and the bytes of the model's weights."""
    adapter, weights = _attached(case, device)
    shape = case.batch_size, case.length, case.batch_size * LABELS
    training = training_on_random_tokens(adapter, shape, CudaCapture(device) if graphs else None)
    return training, weights


def _attached(case: TrainStep, device: torch.device) -> tuple[Adapter, int]:
    """A case's adapter, and the bytes of the model's weights before it was attached."""
    model = random_model(case.model, device, torch.bfloat16)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return attach(model, load_method(method_section(case.method))), weights


def planned(case: TrainStep, graphs: bool, share: float, device: torch.device) -> RecomputePlan:
    """What a run on a case's batches recomputes under ``activations_budget``.

    Raises UserError where nothing keeps to it.
    """
    adapter, weights = _attached(case, device)
    model, trained = adapter.model, sum(parameter.nbytes for parameter in adapter.parameters())
    added = sum(parameter.nbytes for parameter in model.parameters()) - weights
    budget = activations_budget(case, share, weights, added, trained, workspaces(device))
    extents = case.length, case.batch_size * LABELS
    longest = case.batch_size, *(length_bucket(*extents) if graphs else extents)
    try:
        return plan_recompute(model, adapter.method, model.dtype, longest, "auto", budget / 1e9)
    except UserError as error:  # its advice is for a run
        raise UserError(f"recomputing all blocks does not keep to the {budget / 1e9:.3g} GB of the budget") from error


def share_of_official(case: TrainStep, weights: int, share: float) -> float:
    """Bytes: that share of the official code's peak above the model's weights, whose bytes are given."""
    return share * (1e9 * case.peak_gb - weights)


def activations_budget(case: TrainStep, share: float, weights: int, added: int, trained: int, workspaces: int) -> float:
    """Bytes that ``share_of_official`` leaves for activations and logits. weights, added, trained, workspaces: bytes of
    the model's weights, of what the method adds to them, of all that is trained, and of what products work in.

    Raises UserError where it leaves none.
    """
    allowed, others = share_of_official(case, weights, share), added + TRAINED_COPIES * trained + workspaces
    if allowed <= others:
        raise UserError(
            f"{others / 1e9:.3g} GB of trained parameters, their gradients, AdamW's moments and cuBLAS's workspaces "
            f"are more than the {allowed / 1e9:.3g} GB allowed"
        )
    return allowed - others
