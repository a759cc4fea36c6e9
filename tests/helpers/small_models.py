"""A random Mamba that runs in milliseconds, and a progress display that shows nothing."""

from __future__ import annotations

import torch

from ssm_tune.models.config import MambaConfig
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba


def small_model(dtype: torch.dtype = torch.float32, vocab_size: int = 64, n_layer: int = 2, seed: int = 0) -> Mamba:
    """Two layers of width 16 with 4 states a channel."""
    config = MambaConfig(d_model=16, n_layer=n_layer, vocab_size=vocab_size, d_state=4)
    return init_weights(Mamba(config), seed).to(dtype)


class Silent:
    """A ``loop.Progress``."""

    def start(self, label: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, note: str) -> None: ...
    def stop(self) -> None: ...
