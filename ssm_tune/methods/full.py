"""Full fine-tuning: the upper end of the comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.mamba import Mamba

S6 = ("x_proj", "dt_proj", "A_log", "D")  # the selective scan's own weights


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """scope: "all" for every parameter, "s6" for x_proj, dt_proj, A_log and D of every layer."""

    scope: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("scope", str, lambda scope: scope in ("all", "s6"), "all or s6")

    unmergeable_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        if self.scope == "all":
            model.requires_grad_(True)
            return
        for mixer in model.mixers:
            for name, parameter in mixer.named_parameters():
                parameter.requires_grad_(name.partition(".")[0] in S6)

    def num_trainable_params(self, config: MambaConfig) -> int:
        D, N, rank, K = config.d_inner, config.d_state, config.dt_rank, config.d_conv
        s6 = D * (rank + 2 * N) + (rank * D + D) + D * N + D
        if self.scope == "s6":
            return config.n_layer * s6
        block = s6 + config.d_model * 2 * D + (D * K + D) + D * config.d_model + config.d_model
        tables = 1 if config.tie_embeddings else 2
        return config.n_layer * block + config.d_model + tables * config.vocab_size * config.d_model
