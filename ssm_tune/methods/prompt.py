"""Prompt tuning: virtual tokens before the input. Lester et al. (2021), arXiv 2104.08691."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.adapter_slots import LearnedTensor
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba


@dataclass(frozen=True, kw_only=True)
class Prompt(Method):
    """``tokens`` embeddings before the input, started as copies of randomly drawn rows of the embedding
    (the "sampled vocabulary" start of the paper's section 3.2)."""

    tokens: int

    identity_at_start = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_count("tokens")

    unmergeable_reason = "its virtual tokens stand before every input"
    alone_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        table = model.backbone.embedding.weight
        rows = torch.randint(table.shape[0], (self.tokens,), generator=generator)
        model.prompt = LearnedTensor(table.detach()[rows.to(table.device)].float().clone())

    def num_trainable_params(self, config: ModelConfig) -> int:
        return self.tokens * config.d_model
