"""BitFit: the biases alone. Ben Zaken et al. (2021), arXiv 2106.10199. A block has two: the
convolution's, and the step size's (dt_proj's in a Mamba-1, dt_bias in a Mamba-2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.methods.own_parameters import DT_BIAS, count_parameters, train_parameters
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba

BIASES = ("conv1d.bias", DT_BIAS)


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """The biases of every layer: conv1d.bias, and dt_proj.bias or dt_bias."""

    unmergeable_reason = None
    alone_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        train_parameters(model, BIASES)

    def num_trainable_params(self, config: ModelConfig) -> int:
        return count_parameters(config, BIASES)
