"""Activation checkpointing within a memory budget: which blocks of the model are recomputed in the backward pass.

Three things can be done with a block: save all its activations; save those that are expensive to recompute
(models/selective_recompute.py); or save only its inputs and run its forward twice. Results are bit-identical. The plan
recomputes as little as the memory budget allows.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.training.activation_memory import ActivationMemory, estimate_activation_memory
from ssm_tune.utils.errors import UserError

GB = 1e9
USABLE = 0.9
"""The part of a GPU's free memory that the budget takes: the allocator cannot use all of it."""
TRAINED_COPIES = 3
"""Of each trained parameter there are, beside itself, its gradient and AdamW's two moments."""
_CUBLAS_WORKSPACE = 2**25
"""Bytes of cuBLAS's workspace, at most; one for each thread that uses it, the forward's and the backward's."""
_SMALLER = 0.75
"""After a batch ran out of memory although it was estimated to fit, what is advised may need this part of that."""


def workspaces(device: torch.device) -> int:
    """Bytes that matrix products need beside their inputs and results."""
    return 2 * _CUBLAS_WORKSPACE if device.type == "cuda" else 0


class Recompute(NamedTuple):
    """whole: blocks that are recomputed. partly: of the others, at most so many that are recomputed partly."""

    whole: int
    partly: int


NO_RECOMPUTE = Recompute(0, 0)


@dataclass(frozen=True)
class RecomputePlan:
    """How the longest micro batch is computed: ``rows`` x ``length`` tokens with ``labels`` label tokens.

    budget: bytes for activations and logits; None: unknown. setting: train.recompute: auto, on or off. trained: bytes
    that the trained parameters of one run need beside themselves.
    """

    memory: ActivationMemory
    budget: float | None
    rows: int
    length: int
    labels: int
    setting: str
    trained: int = 0

    def of_members(self, members: int) -> RecomputePlan:
        """The same for the longest micro batches of so many members in one (training/members.py)."""
        more = (members - 1) * self.trained
        return dataclasses.replace(
            self,
            memory=dataclasses.replace(self.memory, batch=self.memory.batch * members),
            budget=None if self.budget is None else max(self.budget - more, 1.0),
            rows=self.rows * members,
            labels=self.labels * members,
        )

    @property
    def recompute(self) -> Recompute:
        """What is recomputed."""
        return self._chosen(self.rows, self.setting)

    def apply(self, model: Mamba) -> None:
        """Set the model to recompute as planned."""
        model.recompute, model.recompute_selective = self.recompute

    def needs(self, rows: int, recompute: Recompute) -> float:
        """Bytes for ``rows`` rows of the longest batch's length."""
        return self.memory.needs(rows, self.length, self.labels * rows // self.rows, *recompute)

    def _options(self) -> list[Recompute]:
        """From the fastest to the smallest: parts of blocks first, which cost least for what they save."""
        layers = self.memory.layers
        partly = layers if self.memory.spared > 0 else 0
        whole = [Recompute(number, partly) for number in range(1, layers + 1)]
        return [Recompute(0, number) for number in range(partly + 1)] + whole

    def _chosen(self, rows: int, setting: str) -> Recompute:
        """What a setting recomputes for ``rows`` rows; auto: the least that fits the budget, else what needs least."""
        if setting != "auto":
            return Recompute(self.memory.layers if setting == "on" else 0, 0)
        budget = math.inf if self.budget is None else self.budget
        fitting = (option for option in self._options() if self.needs(rows, option) <= budget)
        return next(fitting, min(self._options(), key=lambda option: self.needs(rows, option)))

    def line(self) -> str:
        """What was chosen, in one line."""
        what = f"activations of the longest batch ({self.rows} x {self.length} tokens)"
        saved, budget = _gb(self.needs(self.rows, NO_RECOMPUTE)), f" of {_gb(self.budget)}" if self.budget else ""
        if self.recompute == NO_RECOMPUTE:
            return f"{what}: kept, about {saved}{budget}"
        less = _gb(self.needs(self.rows, self.recompute))
        return f"{what}: recomputed in {self._blocks()}, about {less}{budget} (without recomputing {saved})"

    def excess(self) -> str | None:
        """The message for a batch that needs more than the budget; None for one that fits."""
        need = self.needs(self.rows, self.recompute)
        if self.budget is None or need <= self.budget:
            return None
        how = "nothing recomputed" if self.recompute == NO_RECOMPUTE else f"recomputed in {self._blocks()}"
        return (
            f"the longest batch, {self.rows} x {self.length} tokens, needs about {_gb(need)} for its activations, "
            f"{how}, and there are {_gb(self.budget)}: {self.advice(self.rows)}"
        )

    def advice(self, rows: int) -> str:
        """Which settings would fit where micro batches of ``rows`` rows did not."""
        failed, limit = self.needs(rows, self.recompute), self.budget
        if limit is None or failed <= limit:
            limit = _SMALLER * failed  # it was estimated to fit, so the estimate is too low
        smaller = [size for size in range(rows - 1, 0, -1) if rows % size == 0]
        choices = [(size, self.setting) for size in smaller]
        choices += [(size, other) for size in (rows, *smaller) for other in ("auto", "on") if other != self.setting]
        for size, setting in choices:
            option = self._chosen(size, setting)
            if (need := self.needs(size, option)) <= limit:
                settings = [f"train.micro_batch={size}"] * (size < rows)
                settings += [f"train.recompute={setting}"] * (setting != self.setting)
                how = f"needs about {_gb(need)}, recomputing {self._blocks(option)}"
                return f"{' '.join(settings)} {how}, and changes no result but by rounding"
        least = _gb(min(self.needs(1, option) for option in self._options()))
        return f"even one example at a time, recomputed, needs about {least}: take a smaller model or a larger GPU"

    def _blocks(self, recompute: Recompute | None = None) -> str:
        whole, partly = self.recompute if recompute is None else recompute
        layers = self.memory.layers
        if partly == 0 or whole == layers:
            return f"{whole} of {layers} blocks"
        parts = f"parts of {partly} of {layers} blocks"
        return f"{whole} of {layers} blocks and parts of the others" if whole else parts


def plan_recompute(
    model: Mamba,
    method: Method,
    adapter_dtype: torch.dtype,
    longest: tuple[int, int, int],
    setting: str,
    memory_gb: float | None,
) -> RecomputePlan:
    """Choose what is recomputed.

    longest: rows, tokens and label tokens of the longest micro batch. setting: train.recompute: auto, on or off.
    memory_gb: GB for activations and logits; None: most of what the GPU has free, unlimited on a CPU.

    Raises UserError where ``memory_gb`` is given and too small for everything that ``setting`` allows.
    """
    memory = estimate_activation_memory(model, method, adapter_dtype)
    budget = None if memory_gb is None else memory_gb * GB
    trained = TRAINED_COPIES * method.num_trainable_params(model.config) * adapter_dtype.itemsize
    if budget is None and model.device.type == "cuda":
        free_memory()
        free = USABLE * torch.cuda.mem_get_info(model.device)[0]
        budget = max(free - trained - workspaces(model.device), 1.0)
    chosen = RecomputePlan(memory, budget, *longest, setting, trained if memory_gb is None else 0)
    if memory_gb is not None and (excess := chosen.excess()):
        raise UserError(f"train.memory={memory_gb:g}: {excess}")
    return chosen


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"
