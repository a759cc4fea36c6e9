"""Memory that a backward pass needs for activations, estimated from short forwards of a small copy of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_tune.methods.base import Method, attach
from ssm_tune.models.mamba import Mamba, recomputed_blocks
from ssm_tune.ops.cross_entropy import bytes_at_worst

_LENGTH = 64
_LAYERS = 1, 3


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
    # of blocks that others stand before: the first keeps less, for its input has no gradient
    few, many = (_measured(small) for small in _small_models(model, method, adapter_dtype))
    one, longer, more, lean, lean_longer = (
        (two - one) / (_LAYERS[1] - _LAYERS[0]) for one, two in zip(few, many, strict=True)
    )
    token, row, spared = (longer - one) / length, more - longer, (longer - lean_longer - one + lean) / length
    residual, added = (config.d_model * dtype.itemsize for dtype in (model.residual_dtype, model.dtype))
    logits = torch.empty(1, config.vocab_size, dtype=model.dtype, device=model.device)
    label = config.vocab_size * bytes_at_worst(logits)
    return Footprint(token, row, one - row - length * token, residual, added, label, config.n_layer, spared)


def _measured(model: Mamba) -> list[int]:
    """Bytes that are saved of a short row, a longer one and two short ones; and of the first two partly recomputed."""
    shapes = ((1, _LENGTH), (1, 2 * _LENGTH), (2, _LENGTH))
    whole = [saved_bytes(model, rows, length) for rows, length in shapes]
    return whole + [saved_bytes(model, rows, length, partly=True) for rows, length in shapes[:2]]


def _small_models(model: Mamba, method: Method, adapter_dtype: torch.dtype) -> Iterator[Mamba]:
    """Models of few blocks and tokens, with the method attached."""
    for layers in _LAYERS:
        with torch.device(model.device):
            small = Mamba(dataclasses.replace(model.config, n_layer=layers, vocab_size=8))
        small.cast_params(model.dtype)
        attach(small, method, dtype=adapter_dtype)
        yield small.train()


def saved_bytes(model: Mamba, rows: int, length: int, partly: bool = False) -> int:
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
    before, model.recompute_selective = model.recompute_selective, model.config.n_layer if partly else 0
    model.selective_recompute.on_saved = keep
    try:
        with model.randomness.of(keys), torch.autograd.graph.saved_tensors_hooks(keep, lambda none: none):
            model.hidden(ids)
    finally:
        model.recompute_selective, model.selective_recompute.on_saved = before, lambda tensor: None
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
