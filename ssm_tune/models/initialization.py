"""Initial weights of a model before pretraining, after the description of the original implementation."""

from __future__ import annotations

import math

import torch

from ssm_tune.models.initial_values import uniform_
from ssm_tune.models.mamba import Mamba


@torch.no_grad()
def init_weights(model: Mamba, seed: int) -> Mamba:
    """Draw the weights of a new model, in float32 on the CPU, and return it."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    model.backbone.embedding.weight.normal_(0, 0.02, generator=generator)
    if not config.tie_embeddings:
        uniform_(model.lm_head.weight, 1 / math.sqrt(config.d_model), generator)
    for mixer in model.mixers:
        mixer.initialize(generator)
    return model
