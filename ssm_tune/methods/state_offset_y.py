"""State-offset Tuning (y): ``y_t = C_t h_t + y'``. Kang et al. (2025), arXiv 2503.03499, section 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.adapter_slots import LearnedTensor
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba


@dataclass(frozen=True, kw_only=True)
class StateOffsetY(Method):
    """One y' (D,) a layer, added to the scan's output before the gate; zero at first."""

    unmergeable_reason = "its offset is added to the scan's output, where a block has no bias"
    alone_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        for mixer in model.mixers:
            mixer.injection.output_offset = LearnedTensor(torch.zeros(model.config.d_inner))

    def num_trainable_params(self, config: ModelConfig) -> int:
        return config.n_layer * config.d_inner
