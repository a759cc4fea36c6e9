"""Models of the real sizes with random weights: what a benchmark needs no download for."""

from __future__ import annotations

import torch

from ssm_tune.models.config import FAMILIES
from ssm_tune.models.mamba import Mamba

SIZES = {
    "mamba_130m": (768, 24, 50_280),
    "mamba_1b4": (2048, 48, 50_280),
    "mamba2_130m": (768, 24, 50_288),
    "mamba2_1b3": (2048, 48, 50_288),
    "mamba_25m": (512, 12, 8192),
    "tiny": (128, 6, 2048),
}
"""d_model, layers and rows of the vocabulary."""


def random_model(name: str, device: torch.device, dtype: torch.dtype) -> Mamba:
    """A Mamba or Mamba-2 of one of ``SIZES`` with random weights."""
    with device:
        model = Mamba(FAMILIES["mamba2" if name.startswith("mamba2") else "mamba"](*SIZES[name]))
    model.cast_params(dtype)
    torch.nn.init.normal_(model.backbone.embedding.weight, std=0.02)
    return model
