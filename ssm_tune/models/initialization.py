"""Initial weights of a Mamba before pretraining, after the description of the original implementation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssm_tune.models.mamba import Mamba

STEP_SIZES = (1e-3, 1e-1)
"""Range of softplus(dt_proj.bias) at the start, log-uniform (Mamba, section 3.6)."""


@torch.no_grad()
def init_weights(model: Mamba, seed: int) -> Mamba:
    """Draw the weights of a new model, in float32 on the CPU, and return it; A_log and D keep the S4D-real start."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, bound: float) -> None:
        tensor.uniform_(-bound, bound, generator=generator)

    config = model.config
    model.backbone.embedding.weight.normal_(0, 0.02, generator=generator)
    if not config.tie_embeddings:
        uniform(model.lm_head.weight, 1 / math.sqrt(config.d_model))
    low, high = (math.log(size) for size in STEP_SIZES)
    for mixer in model.mixers:
        for projection in (mixer.in_proj, mixer.x_proj, mixer.out_proj):
            uniform(projection.weight, 1 / math.sqrt(projection.in_features))
        mixer.out_proj.weight /= math.sqrt(config.n_layer)  # one addition to the residual stream a layer
        uniform(mixer.conv1d.weight, 1 / math.sqrt(config.d_conv))
        assert isinstance(mixer.conv1d.bias, nn.Parameter)
        uniform(mixer.conv1d.bias, 1 / math.sqrt(config.d_conv))
        uniform(mixer.dt_proj.weight, config.dt_rank**-0.5)
        drawn = torch.rand(config.d_inner, generator=generator) * (high - low) + low
        size = drawn.exp()
        mixer.dt_proj.bias.copy_(size + torch.log(-torch.expm1(-size)))  # the inverse of softplus
    return model
