"""Memory that a backward pass needs for activations, estimated from short forwards of a small copy of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import Method
from ssm_tune.models.mamba import Mamba, recomputed_blocks
from ssm_tune.ops.cross_entropy import bytes_at_worst

_LENGTH = 64
_LAYERS = 1, 3


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes that autograd saves for the backward pass.

    token, row, batch: saved by one block for each token, for each row, and independent of both. spared: the part of
    ``token`` that a partly recomputed block does not save. residual, added: one token of a block's two inputs, the
    residual stream and what the block before adds to it. label: held by the loss for each label token as its backward
    begins. layers: blocks of the model.
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
        """Peak bytes of forward and backward for rows x length tokens with ``labels`` label tokens in all.

        recompute: blocks that are recomputed whole. partly: of the others, at most so many that are recomputed partly.

        The peak is as the backward begins, or in the last block, whose gradients are taken to be as large as what it
        saves. It is not later: an earlier block is recomputed after the blocks behind it have freed theirs.
        """
        saving = self.layers - recompute
        block = rows * (length * self.token + self.row) + self.batch
        spared, partly = rows * length * self.spared, min(partly, saving)
        chosen = recomputed_blocks(self.layers, recompute)
        residuals = sum(number < 2 or number - 1 in chosen for number in chosen)  # else saved by the block before
        inputs = rows * length * (residuals * self.residual + recompute * self.added)
        saved = saving * block - partly * spared
        last = block if saving == 0 else spared if partly == saving else 0.0  # recomputed in the last block
        return inputs + max(saved + labels * self.label, saved + last + block)


def estimate_activation_memory(model: Mamba, method: Method, adapter_dtype: torch.dtype) -> ActivationMemory:
    """Estimated from what autograd saves of short forwards through small models of the same widths and device."""
    config, length = model.config, _LENGTH
    # the difference of two models: the first block saves less than others, as its input has no gradient
    few, many = (_measured(small) for small in _small_models(model, method, adapter_dtype))
    one, longer, more, partly, partly_longer = (
        (two - one) / (_LAYERS[1] - _LAYERS[0]) for one, two in zip(few, many, strict=True)
    )
    token, row = (longer - one) / length, more - longer
    logits = torch.empty(1, config.vocab_size, dtype=model.dtype, device=model.device)
    return ActivationMemory(
        token=token,
        row=row,
        batch=one - row - length * token,
        residual=config.d_model * model.residual_dtype.itemsize,
        added=config.d_model * model.dtype.itemsize,
        label=config.vocab_size * bytes_at_worst(logits),
        layers=config.n_layer,
        spared=(longer - partly_longer - one + partly) / length,
    )


def _measured(model: Mamba) -> list[int]:
    """Bytes that are saved of a short row, a longer one and two short ones; and of the first two partly recomputed."""
    shapes = ((1, _LENGTH), (1, 2 * _LENGTH), (2, _LENGTH))
    whole = [saved_bytes(model, rows, length) for rows, length in shapes]
    return whole + [saved_bytes(model, rows, length, partly=True) for rows, length in shapes[:2]]


def _small_models(model: Mamba, method: Method, adapter_dtype: torch.dtype) -> Iterator[Mamba]:
    """Models of few blocks and a small vocabulary, with the method attached."""
    for layers in _LAYERS:
        with torch.device(model.device):
            small = Mamba(dataclasses.replace(model.config, n_layer=layers, vocab_size=8))
        small.cast_params(model.dtype)
        attach(small, method, dtype=adapter_dtype)
        yield small.train()


def saved_bytes(model: Mamba, rows: int, length: int, partly: bool = False) -> int:
    """Bytes that autograd saves of a forward, the model's own tensors apart. partly: recompute all blocks partly."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> None:
        # detached, or its graph would never be freed; held until all is counted, as freed memory is used again
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor.detach()

    ids = torch.zeros(rows, length, dtype=torch.int64, device=model.device)
    keys = torch.zeros(rows, dtype=torch.int64, device=model.device)
    before, model.recompute_selective = model.recompute_selective, model.config.n_layer if partly else 0
    model.selective_recompute.on_saved = save
    try:
        with model.randomness.of(keys), torch.autograd.graph.saved_tensors_hooks(save, lambda none: none):
            model.hidden(ids)
    finally:
        model.recompute_selective, model.selective_recompute.on_saved = before, lambda tensor: None
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
