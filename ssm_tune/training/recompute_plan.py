"""What a backward pass needs in memory, measured on a small copy of the model; and how much of it to recompute.

A block's activations are kept for the backward; or but for those that cost little to compute again, in the way of
models/selective_recompute.py; or only its inputs, and the block's forward runs twice. The numbers are the same. The
plan recomputes as little as memory allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.training.activation_memory import Footprint, footprint
from ssm_tune.utils.errors import UserError

GB = 1e9
SPARE = 0.9
"""The part of a GPU's free memory that is planned with: the allocator cannot use all of it."""
LEARNT = 3
"""Times that what is trained stands in memory beside itself: its gradients, and AdamW's two moments."""
_WORKSPACE = 2**25
"""Bytes that cuBLAS works in at most, for each thread that uses it: that of the forward, and the backward's."""
_LESS = 0.75
"""Of what a batch was to need that was to fit and did not: what is advised instead may need that part, as estimated."""


def workspaces(device: torch.device) -> int:
    """Bytes that products need beside their inputs and results."""
    return 2 * _WORKSPACE if device.type == "cuda" else 0


class Again(NamedTuple):
    """How many blocks are computed again, and of how many others, at most, parts."""

    whole: int
    partly: int


NOTHING = Again(0, 0)


@dataclass(frozen=True)
class Plan:
    """How the longest batch is computed: ``rows`` x ``length`` tokens with ``labels`` label tokens at a time.

    budget: bytes for activations and logits, None: unknown. setting: auto, on or off, as was asked for.
    """

    footprint: Footprint
    budget: float | None
    rows: int
    length: int
    labels: int
    setting: str

    @property
    def recompute(self) -> Again:
        """How many blocks' activations are computed again."""
        return self._chosen(self.rows, self.setting)

    def apply(self, model: Mamba) -> None:
        """Let the model compute so."""
        model.recompute, model.recompute_selective = self.recompute

    def needs(self, rows: int, recompute: Again) -> float:
        """Bytes for ``rows`` rows as long as the longest."""
        return self.footprint.needs(rows, self.length, self.labels * rows // self.rows, *recompute)

    def _ways(self) -> list[Again]:
        """From the fastest to that which needs least: parts of blocks first, which cost least for what they spare."""
        layers = self.footprint.layers
        parts = layers if self.footprint.spared > 0 else 0
        blocks = [Again(number, parts) for number in range(1, layers + 1)]
        return [Again(0, number) for number in range(parts + 1)] + blocks

    def _chosen(self, rows: int, setting: str) -> Again:
        """What a setting recomputes for ``rows`` rows: for auto the least that keeps to the budget, and where nothing
        does what needs least."""
        if setting != "auto":
            return Again(self.footprint.layers if setting == "on" else 0, 0)
        budget = math.inf if self.budget is None else self.budget
        fitting = (way for way in self._ways() if self.needs(rows, way) <= budget)
        return next(fitting, min(self._ways(), key=lambda way: self.needs(rows, way)))

    def line(self) -> str:
        """What was chosen, in words."""
        of = f"activations of the longest batch ({self.rows} x {self.length} tokens)"
        kept, budget = _gb(self.needs(self.rows, NOTHING)), f" of {_gb(self.budget)}" if self.budget else ""
        if self.recompute == NOTHING:
            return f"{of}: kept, about {kept}{budget}"
        less = _gb(self.needs(self.rows, self.recompute))
        return f"{of}: computed again in {self._blocks()}, about {less}{budget} (kept in all, they would take {kept})"

    def excess(self) -> str | None:
        """What to say of a batch that is larger than the budget; None for one that is not."""
        need = self.needs(self.rows, self.recompute)
        if self.budget is None or need <= self.budget:
            return None
        how = "all of them kept" if self.recompute == NOTHING else f"computed again in {self._blocks()}"
        return (
            f"the longest batch, {self.rows} x {self.length} tokens, needs about {_gb(need)} for its activations, "
            f"{how}, and there are {_gb(self.budget)}: {self.advice(self.rows)}"
        )

    def advice(self, rows: int) -> str:
        """What would fit where ``rows`` rows at a time did not."""
        failed, limit = self.needs(rows, self.recompute), self.budget
        if limit is None or failed <= limit:
            limit = _LESS * failed  # it was to fit, so the estimate is too small
        smaller = [size for size in range(rows - 1, 0, -1) if rows % size == 0]
        choices = [(size, self.setting) for size in smaller]
        choices += [(size, other) for size in (rows, *smaller) for other in ("auto", "on") if other != self.setting]
        for size, setting in choices:
            way = self._chosen(size, setting)
            if (need := self.needs(size, way)) <= limit:
                settings = [f"train.micro_batch={size}"] * (size < rows)
                settings += [f"train.recompute={setting}"] * (setting != self.setting)
                how = f"needs about {_gb(need)}, recomputing {self._blocks(way)}"
                return f"{' '.join(settings)} {how}, and changes no result but by rounding"
        least = _gb(min(self.needs(1, way) for way in self._ways()))
        return f"even one example at a time, recomputed, needs about {least}: take a smaller model or a larger GPU"

    def _blocks(self, recompute: Again | None = None) -> str:
        whole, partly = self.recompute if recompute is None else recompute
        layers = self.footprint.layers
        if partly == 0 or whole == layers:
            return f"{whole} of {layers} blocks"
        parts = f"parts of {partly} of {layers} blocks"
        return f"{whole} of {layers} blocks and parts of the others" if whole else parts


def plan(
    model: Mamba, method: Method, adapter_dtype: torch.dtype, longest: tuple[int, int, int], recompute: str,
    memory: float | None,
) -> Plan:  # fmt: skip
    """Choose. longest: rows, tokens and label tokens of the longest batch that is computed at a time. recompute: auto,
    on or off. memory: GB for activations and logits; None: most of what the GPU has free.

    Raises UserError where a budget was given and nothing that was allowed keeps to it.
    """
    found = footprint(model, method, adapter_dtype)
    budget = None if memory is None else memory * GB
    if budget is None and model.device.type == "cuda":
        spent = LEARNT * method.num_trainable_params(model.config) * adapter_dtype.itemsize + workspaces(model.device)
        free_memory()
        budget = max(SPARE * torch.cuda.mem_get_info(model.device)[0] - spent, 1.0)
    chosen = Plan(found, budget, *longest, recompute)
    if memory is not None and (excess := chosen.excess()):
        raise UserError(f"train.memory={memory:g}: {excess}")
    return chosen


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"
