"""What a backward pass needs in memory, measured on a small copy of the model; and how much of it to recompute.

A block's activations are kept for the backward; or but for those that cost little to compute again, by the recipes of
models/recipes.py; or only its inputs, and the block's forward runs twice. The numbers are the same. The plan recomputes
as little as memory allows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_tune.methods.base import Method, attach
from ssm_tune.models.mamba import Mamba, recomputed_blocks
from ssm_tune.ops.cross_entropy import bytes_at_worst
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.utils.errors import UserError

GB = 1e9
SPARE = 0.9
"""The part of a GPU's free memory that is planned with: the allocator cannot use all of it."""
LEARNT = 3
"""Times that what is trained stands in memory beside itself: its gradients, and AdamW's two moments."""
_WORKSPACE = 2**25
"""Bytes that cuBLAS works in at most, for each thread that uses it: that of the forward, and the backward's."""
_LENGTH = 64
_LAYERS = 1, 3
_LESS = 0.75
"""Of what a batch was to need that was to fit and did not: what is advised instead may need that part, as estimated."""


def workspaces(device: torch.device) -> int:
    """Bytes that products need beside their inputs and results."""
    return 2 * _WORKSPACE if device.type == "cuda" else 0


@dataclass(frozen=True)
class Footprint:
    """Bytes kept for the backward.

    token, row, batch: by a block, for each token, for each row, and however many there are; spared: of token by a block
    that is partly recomputed; residual, added: by a block's two inputs for each token; label: by the loss for each
    label token, as its backward begins. layers: blocks.
    """

    token: float
    row: float
    batch: float
    residual: float
    added: float
    label: float
    layers: int
    spared: float = 0

    def needs(self, rows: int, length: int, labels: int, recompute: int, partly: int = 0) -> float:
        """Bytes at the worst moment of forward and backward with ``recompute`` blocks' activations computed again, and
        of ``partly`` others (all of them, if they are fewer) some: as the backward begins, or in the last block, whose
        gradients are taken to be as large as what it keeps. Later moments are no worse: an earlier block is computed
        again when those behind it have let go of theirs.
        """
        block, kept = rows * (length * self.token + self.row) + self.batch, self.layers - recompute
        spared, lean = rows * length * self.spared, min(partly, kept)
        chosen = recomputed_blocks(self.layers, recompute)
        residuals = sum(number < 2 or number - 1 in chosen for number in chosen)  # others' the block before keeps
        inputs = rows * length * (residuals * self.residual + recompute * self.added)
        held = kept * block - lean * spared
        again = block if kept == 0 else spared if lean == kept else 0.0  # of the last block
        return inputs + max(held + labels * self.label, held + again + block)


def footprint(model: Mamba, method: Method, adapter_dtype: torch.dtype) -> Footprint:
    """Counted from what autograd keeps of short forwards of small models of the same widths, on the same device."""
    config, length = model.config, _LENGTH
    shapes = ((1, length), (1, 2 * length), (2, length))
    # of blocks that others stand before: the first keeps less, for its input has no gradient
    few, many = (
        [*(_kept(small, *shape) for shape in shapes), *(_kept(small, *shape, partly=True) for shape in shapes[:2])]
        for small in _small(model, method, adapter_dtype)
    )
    one, longer, more, lean, lean_longer = (
        (two - one) / (_LAYERS[1] - _LAYERS[0]) for one, two in zip(few, many, strict=True)
    )
    token, row, spared = (longer - one) / length, more - longer, (longer - lean_longer - one + lean) / length
    residual, added = (config.d_model * dtype.itemsize for dtype in (model.residual_dtype, model.dtype))
    logits = torch.empty(1, config.vocab_size, dtype=model.dtype, device=model.device)
    label = config.vocab_size * bytes_at_worst(logits)
    return Footprint(token, row, one - row - length * token, residual, added, label, config.n_layer, spared)


def _small(model: Mamba, method: Method, adapter_dtype: torch.dtype) -> Iterator[Mamba]:
    """Models of few blocks and tokens, with the method attached."""
    for layers in _LAYERS:
        with torch.device(model.device):
            small = Mamba(dataclasses.replace(model.config, n_layer=layers, vocab_size=8))
        small.keep_in(model.dtype)
        attach(small, method, dtype=adapter_dtype)
        yield small.train()


def _kept(model: Mamba, rows: int, length: int, partly: bool = False) -> int:
    """Bytes that autograd keeps of a forward, the model's own tensors apart; ``partly``: if all blocks are partly
    recomputed."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> None:
        # without its graph, which would hold the tensor for good; and held until all is counted, for memory that is
        # freed is another tensor's the next moment
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor.detach()

    ids = torch.zeros(rows, length, dtype=torch.int64, device=model.device)
    keys = torch.zeros(rows, dtype=torch.int64, device=model.device)
    before, model.recompute_partly = model.recompute_partly, model.config.n_layer if partly else 0
    model.recipes.watch = keep
    try:
        with model.randomness.of(keys), torch.autograd.graph.saved_tensors_hooks(keep, lambda none: none):
            model.hidden(ids)
    finally:
        model.recompute_partly, model.recipes.watch = before, lambda tensor: None
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


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
        model.recompute, model.recompute_partly = self.recompute

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
        spent = LEARNT * method.count(model.config) * adapter_dtype.itemsize + workspaces(model.device)
        free_memory()
        budget = max(SPARE * torch.cuda.mem_get_info(model.device)[0] - spent, 1.0)
    chosen = Plan(found, budget, *longest, recompute)
    if memory is not None and (excess := chosen.excess()):
        raise UserError(f"train.memory={memory:g}: {excess}")
    return chosen


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"
