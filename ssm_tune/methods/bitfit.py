"""BitFit: the biases alone. Ben Zaken et al. (2021), arXiv 2106.10199. A Mamba block has two: conv1d and dt_proj."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.mamba import Mamba


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """conv1d.bias and dt_proj.bias of every layer."""

    unmergeable_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        for mixer in model.mixers:
            assert mixer.conv1d.bias is not None
            mixer.conv1d.bias.requires_grad_(True)
            mixer.dt_proj.bias.requires_grad_(True)

    def num_trainable_params(self, config: MambaConfig) -> int:
        return config.n_layer * 2 * config.d_inner
