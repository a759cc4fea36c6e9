"""A random Mamba that runs in milliseconds, and a progress display that shows nothing."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import torch

from ssm_tune.config.groups import method_section, names
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import FAMILIES, Mamba2Config, MambaConfig, ModelConfig
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError

SIZES: dict[str, ModelConfig] = {
    "mamba": MambaConfig(d_model=16, n_layer=2, vocab_size=64, d_state=4),
    "mamba2": Mamba2Config(d_model=16, n_layer=2, vocab_size=64, d_state=4, headdim=8, ngroups=2),
}


def small_model(
    dtype: torch.dtype = torch.float32,
    vocab_size: int = 64,
    n_layer: int = 2,
    seed: int = 0,
    family: str = "mamba",
) -> Mamba:
    """Two layers of width 16 with 4 states a channel."""
    config = dataclasses.replace(SIZES[family], n_layer=n_layer, vocab_size=vocab_size)
    return init_weights(Mamba(config), seed).to(dtype)


def methods_of(family: str) -> list[str]:
    """The methods that models of the family take."""
    found = []
    for name in names("method"):
        with suppress(UserError):
            load_method(method_section(name, family=family)).check_family(FAMILIES[family])
            found.append(name)
    return found


class Silent:
    """A ``loop.Progress``."""

    def start(self, label: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, note: str) -> None: ...
    def stop(self) -> None: ...
