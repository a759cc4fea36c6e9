"""A block: a norm and a mixer beside the residual stream. A family is chosen here, by its sizes, and nowhere else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssm_tune.models.config import ModelConfig
from ssm_tune.models.layers import RMSNorm
from ssm_tune.models.mamba1 import MambaMixer
from ssm_tune.models.mamba2 import Mamba2Mixer
from ssm_tune.models.mixer import Mixer, States

MIXERS: dict[str, type[Mixer[Any]]] = {"mamba": MambaMixer, "mamba2": Mamba2Mixer}
"""By family."""


class Block(nn.Module):
    """Norm and mixer; the residual stream passes through."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer: Mixer[Any] = MIXERS[config.family](config)

    def forward(
        self, residual: Tensor, added: Tensor | None, dtype: torch.dtype, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, States | None]:
        """The block's output in ``dtype``, the residual stream that it is to be added to, and the mixer's states.

        residual: (B, L, d_model), the stream; added: the output of the block before, in ``dtype``, not yet added to it.
        """
        normed, residual = self.norm(residual, added, dtype)
        out, states = self.mixer(normed, lengths)
        return out, residual, states
