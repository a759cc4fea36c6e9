"""What a backward pass needs in memory, measured on a small copy of the model; and whether to keep or recompute it.

A block's activations are kept for the backward, or only its inputs, from which they are computed again when their turn
comes: the numbers are the same, the forward runs twice, and one block's activations are in memory at a time.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_tune.errors import UserError
from ssm_tune.methods.base import Method, attach
from ssm_tune.models.mamba import Mamba

GB = 1e9
SPARE = 0.9
"""The part of a GPU's free memory that is planned with: the allocator cannot use all of it."""
_LENGTH = 64
_LAYERS = 1, 3


def release() -> None:
    """Give back the GPU memory of what earlier work of this process has left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Footprint:
    """Bytes kept for the backward.

    token, row, batch: by a block, for each token, for each row, and however many there are; stream: by a block's inputs
    for each token; label: by the loss for each label token. layers: blocks.
    """

    token: float
    row: float
    batch: float
    stream: float
    label: float
    layers: int

    def needs(self, rows: int, length: int, labels: int, recompute: bool) -> float:
        """Bytes at the worst moment of forward and backward: what is kept, and gradients as large as one block's
        activations or as the logits, whichever are larger."""
        block, logits = rows * (length * self.token + self.row) + self.batch, labels * self.label
        kept = block + self.layers * rows * length * self.stream if recompute else self.layers * block
        return kept + logits + max(block, logits)


def footprint(model: Mamba, method: Method, adapter_dtype: torch.dtype) -> Footprint:
    """Counted from what autograd keeps of short forwards of small models of the same widths, on the same device."""
    config, length = model.config, _LENGTH
    shapes = ((1, length), (1, 2 * length), (2, length))
    # of blocks that others stand before: the first keeps less, for its input has no gradient
    few, many = ([_kept(small, *shape) for shape in shapes] for small in _small(model, method, adapter_dtype))
    one, longer, more = ((two - one) / (_LAYERS[1] - _LAYERS[0]) for one, two in zip(few, many, strict=True))
    token, row = (longer - one) / length, more - longer
    stream = config.d_model * (model.residual_dtype.itemsize + model.dtype.itemsize)
    logits = config.vocab_size * max(4, model.dtype.itemsize)
    return Footprint(token, row, one - row - length * token, stream, logits, config.n_layer)


def _small(model: Mamba, method: Method, adapter_dtype: torch.dtype) -> Iterator[Mamba]:
    """Models of few blocks and tokens, with the method attached."""
    for layers in _LAYERS:
        with torch.device(model.device):
            small = Mamba(dataclasses.replace(model.config, n_layer=layers, vocab_size=8))
        small.keep_in(model.dtype)
        attach(small, method, dtype=adapter_dtype)
        yield small.train()


def _kept(model: Mamba, rows: int, length: int) -> int:
    """Bytes that autograd keeps of a forward, the model's own tensors apart."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> None:
        # without its graph, which would hold the tensor for good; and held until all is counted, for memory that is
        # freed is another tensor's the next moment
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor.detach()

    ids = torch.zeros(rows, length, dtype=torch.int64, device=model.device)
    keys = torch.zeros(rows, dtype=torch.int64, device=model.device)
    with model.randomness.of(keys), torch.autograd.graph.saved_tensors_hooks(keep, lambda none: none):
        model.hidden(ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@dataclass(frozen=True)
class Plan:
    """How the longest batch is computed: ``rows`` x ``length`` tokens with ``labels`` label tokens at a time.

    budget: bytes for activations, None: unknown. recompute: whether each block's are computed again.
    """

    footprint: Footprint
    budget: float | None
    rows: int
    length: int
    labels: int
    recompute: bool

    def needs(self, rows: int, recompute: bool) -> float:
        """Bytes for ``rows`` rows as long as the longest."""
        return self.footprint.needs(rows, self.length, self.labels * rows // self.rows, recompute)

    def line(self) -> str:
        """What was chosen, in words."""
        of = f"activations of the longest batch ({self.rows} x {self.length} tokens)"
        kept, budget = _gb(self.needs(self.rows, False)), f" of {_gb(self.budget)}" if self.budget else ""
        if not self.recompute:
            return f"{of}: kept, about {kept}{budget}"
        less = _gb(self.needs(self.rows, True))
        return f"{of}: computed again block by block, about {less}{budget} (kept they would take {kept})"

    def excess(self) -> str | None:
        """What to say of a batch that is larger than the budget; None for one that is not."""
        need = self.needs(self.rows, self.recompute)
        if self.budget is None or need <= self.budget:
            return None
        return (
            f"the longest batch, {self.rows} x {self.length} tokens, needs about {_gb(need)} for its activations, "
            f"and there are {_gb(self.budget)}: {self.advice(self.rows)}"
        )

    def advice(self, rows: int) -> str:
        """What would fit where ``rows`` rows at a time did not."""
        smaller = [size for size in range(rows - 1, 0, -1) if rows % size == 0]
        choices = [] if self.recompute else [(size, False) for size in smaller]
        choices += [(size, True) for size in ([] if self.recompute else [rows]) + smaller]
        for size, recompute in choices:
            need = self.needs(size, recompute)
            if self.budget is None or need <= self.budget:
                settings = [f"train.micro_batch={size}"] * (size < rows)
                settings += ["train.recompute=on"] * (recompute and not self.recompute)
                return f"{' '.join(settings)} needs about {_gb(need)}, and changes no result but by rounding"
        least = _gb(self.needs(1, True))
        return f"even one example at a time, recomputed, needs about {least}: take a smaller model or a larger GPU"


def plan(
    model: Mamba, method: Method, adapter_dtype: torch.dtype, longest: tuple[int, int, int], recompute: str,
    memory: float | None,
) -> Plan:  # fmt: skip
    """Choose. longest: rows, tokens and label tokens of the longest batch that is computed at a time. recompute: auto,
    on or off. memory: GB for activations; None: most of what the GPU has free.

    Raises UserError where a budget was given and nothing that was allowed keeps to it.
    """
    found = footprint(model, method, adapter_dtype)
    budget = None if memory is None else memory * GB
    if budget is None and model.device.type == "cuda":
        spent = 3 * method.count(model.config) * adapter_dtype.itemsize  # gradients, and AdamW's two moments
        release()
        budget = max(SPARE * torch.cuda.mem_get_info(model.device)[0] - spent, 1.0)
    large = budget is not None and found.needs(*longest, recompute=False) > budget
    chosen = Plan(found, budget, *longest, recompute == "on" or (recompute == "auto" and large))
    if memory is not None and (excess := chosen.excess()):
        raise UserError(f"train.memory={memory:g}: {excess}")
    return chosen


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"
