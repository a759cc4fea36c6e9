"""Initial-state tuning: the scan starts from a learned h_0 instead of zero. Galim et al. (2024), arXiv 2410.09016."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.adapter_slots import LearnedTensor
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba


@dataclass(frozen=True, kw_only=True)
class InitialState(Method):
    """One h_0 (D, N) a layer, zero at first."""

    sets_initial_state = True
    unmergeable_reason = "a plain model starts from the state zero"
    alone_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        for mixer in model.mixers:
            mixer.injection.initial_state = LearnedTensor(torch.zeros(model.config.d_inner, model.config.d_state))

    def num_trainable_params(self, config: ModelConfig) -> int:
        return config.n_layer * config.d_inner * config.d_state
