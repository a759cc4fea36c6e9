"""A base model whose weights several models share. Imports nothing of what keeps it (experiment/shared.py)."""

from __future__ import annotations

from typing import Any

import torch

from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import model_hash, with_weights_of
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.training.sanity_checks import fingerprint


class LentModel:
    """A base model, its tokenizer, and the hub's commit. key: the settings and files that they came from."""

    def __init__(self, key: tuple[Any, ...], model: Mamba, tokenizer: Tokenizer, revision: str | None) -> None:
        self.key, self._base, self.tokenizer, self.revision = key, model, tokenizer, revision
        model.checkpoint_hash = model.checkpoint_hash or model_hash(model)
        self._fingerprints = self._taken()

    def _taken(self) -> dict[str, int]:
        return {name: fingerprint(value) for name, value in self._base.named_parameters()}

    def is_unchanged(self) -> bool:
        """Whether every weight is bit for bit what was loaded, whatever the runs so far have done."""
        return self._taken() == self._fingerprints

    def lend(self) -> Mamba:
        """A model of these weights, without any method."""
        return with_weights_of(self._base)

    def lent(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies in the memory of these weights."""
        place = tensor.untyped_storage().data_ptr()
        return any(value.untyped_storage().data_ptr() == place for value in self._base.parameters())
