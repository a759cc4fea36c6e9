"""The sizes of a Mamba, and the dtypes of its parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MambaConfig:
    """Sizes of a Mamba-1. ``vocab_size`` counts the embedding's rows, padding included.

    Raises ValueError for a size below 1.
    """

    d_model: int
    n_layer: int
    vocab_size: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int = 0
    """Width of the step size's bottleneck; 0 stands for ceil(d_model / 16), the published rule."""
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    residual_in_fp32: bool = True

    def __post_init__(self) -> None:
        if self.dt_rank == 0:
            object.__setattr__(self, "dt_rank", math.ceil(self.d_model / 16))
        for name in ("d_model", "n_layer", "vocab_size", "d_state", "d_conv", "expand", "dt_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"MambaConfig: {name} must be at least 1, got {getattr(self, name)}")

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model


def param_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the parameter ``name`` of a model in ``dtype``: for A_log and D float32 at least.

    They act on every step of the recurrence, and the published checkpoints keep them so.
    """
    return torch.promote_types(dtype, torch.float32) if name.endswith(("A_log", ".D")) else dtype
