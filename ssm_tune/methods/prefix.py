"""Prefix tuning for a recurrent block: virtual tokens that set each block's start.

Li and Liang (2021), arXiv 2101.00190, in the form that fits a state space model, affix tuning (Yoshimura et al., 2024,
"MambaPEFT", arXiv 2411.03855): there are no keys and values to extend, so the tokens run through the block first and
their outputs are dropped. Tokens behind the sequence, which bidirectional models have too, a causal one never reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.adapter_slots import LearnedTensor
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba


@dataclass(frozen=True, kw_only=True)
class Prefix(Method):
    """``tokens`` vectors (d_model) a layer, drawn from N(0, init_std^2)."""

    tokens: int
    init_std: float

    identity_at_start = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_count("tokens")
        self.require("init_std", float, lambda std: 0 < std < 1e6, "a positive number")

    sets_initial_state = True
    unmergeable_reason = "its virtual tokens run through each block before the sequence"
    alone_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        for mixer in model.mixers:
            drawn = torch.randn(self.tokens, model.config.d_model, generator=generator)
            mixer.injection.prefix = LearnedTensor(drawn * self.init_std)

    def num_trainable_params(self, config: ModelConfig) -> int:
        return config.n_layer * self.tokens * config.d_model
