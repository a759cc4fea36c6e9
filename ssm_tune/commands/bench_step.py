"""ssm-tune bench step: times of whole training steps on random weights of the real sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssm_tune.config.groups import method_section
from ssm_tune.utils.errors import UserError, first_line

LABELS = 32
"""Label positions a row."""
SIZES = {"mamba_130m": (768, 24, 50_280), "mamba_1b4": (2048, 48, 50_280), "tiny": (128, 6, 2048)}
"""d_model, layers and rows of the vocabulary."""
_SECONDS, _BLOCKS = 1.0, 5
"""Measured at least: seconds, and blocks of steps."""


@dataclass(frozen=True)
class Case:
    """official: milliseconds a step, and peak GB, of the official code's model with AdamW and no trainer around it,
    launched singly, bfloat16, on an H200 (torch 2.11, medians)."""

    model: str
    method: str
    batch: int
    length: int
    official: tuple[float, float]


CASES = (
    Case("mamba_130m", "state_offset", 4, 64, (73.8, 0.78)),
    Case("mamba_130m", "state_offset_y", 4, 64, (59.2, 0.76)),
    Case("mamba_130m", "initial_state", 4, 64, (261.8, 1.41)),
    Case("mamba_130m", "lora", 4, 64, (110.3, 0.65)),
    Case("mamba_130m", "additional_scan", 4, 64, (73.7, 0.62)),
    Case("mamba_130m", "full", 4, 64, (84.0, 1.31)),
    Case("mamba_130m", "state_offset", 4, 1024, (82.2, 4.6)),
    Case("mamba_130m", "initial_state", 4, 1024, (243.7, 17.4)),
    Case("mamba_1b4", "state_offset", 4, 256, (124.7, 6.9)),
    Case("mamba_1b4", "lora", 4, 256, (212.0, 7.9)),
    Case("mamba_1b4", "initial_state", 2, 256, (544.9, 13.4)),
    Case("mamba_1b4", "state_offset", 4, 1024, (215.0, 19.1)),
)
_ROW = "{:>10} {:>15} {:>8} {:>9} {:>10} {:>8} {:>9} {:>9} {:>8} {:>11}"
_TITLES = "model method B,x,L ms/step official speedup tokens/s weights peak,GB official,GB"


def heading(found: dict[str, Any]) -> str:
    """What was measured, and the table's titles."""
    share = [] if found["memory"] is None else [
        f"allowed: the weights and {found['memory']:g} of the official code's peak above them; to keep to it, "
        "blocks, or parts of them, are computed again."
    ]  # fmt: skip
    return "\n".join([
        f"{found['device']}, torch {found['torch']}: steps {found['how']}, bfloat16, {LABELS} label tokens a row",
        "ms/step: medians over blocks of steps, the making of batches and the host's reads included. peak GB: with the",
        "weights, whose GB stand before it. official: the official code's steps, launched singly, measured on an H200.",
        *share,
        _ROW.format(*(title.replace(",", " ") for title in _TITLES.split())),
    ])  # fmt: skip


def line(row: dict[str, Any]) -> str:
    what = (row["model"], row["method"], f"{row['batch']} x {row['length']}")
    if "failed" in row:
        return _ROW.format(*what, *["-"] * 7) + f"  {row['failed']}"
    notes = []
    if "recomputed_blocks" in row:
        notes = [
            f"computed again: {row['recomputed_blocks']} of {row['layers']} blocks, parts of "
            f"{row['partly_recomputed_blocks']}, allowed {row['allowed_gb']:.2f} GB"
        ]
    notes += [row["said"]] * bool(row["said"])
    return _ROW.format(
        *what, f"{row['milliseconds']:.2f}", f"{row['official_milliseconds']:.1f}", f"{row['speedup']:.1f}",
        f"{row['tokens_per_second']:,.0f}", f"{row['weights_gb']:.2f}", f"{row['peak_gb']:.2f}",
        f"{row['official_peak_gb']:.2f}",
    ) + "".join(f"  {note}" for note in notes)  # fmt: skip


def measured(case: Case, capture: bool, share: float | None = None) -> dict[str, Any]:
    """A row of the table; one that cannot be measured says why, under ``failed``.

    share: of the official code's peak above the weights, to be kept to; None: as much memory as there is.
    """
    row: dict[str, Any] = {"model": case.model, "method": case.method, "batch": case.batch, "length": case.length}
    try:
        row |= _measured(case, capture, share)
    except (RuntimeError, UserError) as error:  # out of memory, above all
        return row | {"failed": first_line(error)}
    milliseconds, peak = case.official
    return row | {
        "tokens_per_second": 1e3 * case.batch * case.length / row["milliseconds"],
        "speedup": milliseconds / row["milliseconds"], "official_milliseconds": milliseconds, "official_peak_gb": peak,
    }  # fmt: skip


def _measured(case: Case, capture: bool, share: float | None) -> dict[str, Any]:
    import torch

    from ssm_tune.ops.cuda.memory import free_memory
    from ssm_tune.planning.profiling import milliseconds_a_step, refused

    device = torch.device("cuda")
    chosen = None if share is None else planned(case, capture, share, device)
    free_memory()
    held = torch.cuda.memory_allocated()  # what earlier rows, and the plan, have left: cuBLAS's workspaces, for one
    training, weights = _training(case, capture, device)
    torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"weights_gb": weights / 1e9}
    if chosen is not None and share is not None:
        chosen.apply(training.adapter.model)
        allowed = (weights + share_of_official(case, weights, share)) / 1e9
        row |= {
            "recomputed_blocks": chosen.recompute.whole, "partly_recomputed_blocks": chosen.recompute.partly,
            "layers": chosen.footprint.layers, "allowed_gb": allowed,
        }  # fmt: skip
    return row | {
        "milliseconds": milliseconds_a_step(training, _SECONDS, _BLOCKS),
        "peak_gb": (torch.cuda.max_memory_allocated() - held) / 1e9, "said": refused(training),
    }  # fmt: skip


def random_model(name: str, device: Any, dtype: Any) -> Any:
    """A Mamba of a real size with random weights. device, dtype: torch's."""
    import torch

    from ssm_tune.models.block import MambaConfig
    from ssm_tune.models.mamba import Mamba

    with device:
        model = Mamba(MambaConfig(*SIZES[name]))
    model.keep_in(dtype)
    torch.nn.init.normal_(model.backbone.embedding.weight, std=0.02)
    return model


def _training(case: Case, capture: bool, device: Any) -> tuple[Any, int]:
    """A training on random tokens, and the bytes of the model's weights."""
    from ssm_tune.ops.cuda.graph import CudaCapture
    from ssm_tune.planning.profiling import training_on_random_tokens

    adapter, weights = _attached(case, device)
    shape = case.batch, case.length, case.batch * LABELS
    training = training_on_random_tokens(adapter, shape, CudaCapture(device) if capture else None)
    training.gate = None  # random weights that hardly move are no case for it, and it holds copies
    return training, weights


def _attached(case: Case, device: Any) -> tuple[Any, int]:
    """A case's adapter, and the bytes of the model's weights before it was attached."""
    import torch

    from ssm_tune.methods.base import attach, load_method

    model = random_model(case.model, device, torch.bfloat16)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return attach(model, load_method(method_section(case.method))), weights


def planned(case: Case, capture: bool, share: float, device: Any) -> Any:
    """The ``memory.Plan`` of a run on a case's batches under ``activations_budget``. device: torch's.

    Raises UserError where nothing keeps to it.
    """
    from ssm_tune.data.collator import bucket
    from ssm_tune.training.recompute_plan import plan, workspaces

    adapter, weights = _attached(case, device)
    model, trained = adapter.model, sum(parameter.nbytes for parameter in adapter.parameters.values())
    added = sum(parameter.nbytes for parameter in model.parameters()) - weights
    budget = activations_budget(case, share, weights, added, trained, workspaces(device))
    extents = case.length, case.batch * LABELS
    longest = case.batch, *(bucket(*extents) if capture else extents)
    try:
        return plan(model, adapter.method, model.dtype, longest, "auto", budget / 1e9)
    except UserError as error:  # its advice is for a run
        raise UserError(f"nothing that is computed again keeps to the {budget / 1e9:.3g} GB of the budget") from error


def share_of_official(case: Case, weights: int, share: float) -> float:
    """Bytes: that share of the official code's peak above the model's weights, whose bytes are given."""
    return share * (1e9 * case.official[1] - weights)


def activations_budget(case: Case, share: float, weights: int, added: int, trained: int, workspaces: int) -> float:
    """Bytes that ``share_of_official`` leaves for activations and logits. weights, added, trained, workspaces: bytes of
    the model's weights, of what the method adds to them, of all that is trained, and of what products work in.

    Raises UserError where it leaves none.
    """
    from ssm_tune.training.recompute_plan import LEARNT

    allowed, others = share_of_official(case, weights, share), added + LEARNT * trained + workspaces
    if allowed <= others:
        raise UserError(f"{others / 1e9:.3g} GB of what is trained, its gradients, AdamW's moments and cuBLAS's "
                        f"workspaces are beyond the {allowed / 1e9:.3g} GB allowed")  # fmt: skip
    return allowed - others
