"""Full fine-tuning: the upper end of the comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.methods.own_parameters import count_parameters, train_parameters
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """scope: "all" for every parameter; "s6" for what the scan of every layer has for itself.

    That is x_proj, dt_proj, A_log and D in a Mamba-1, and dt_bias, A_log and D in a Mamba-2, where B, C and dt are rows
    of in_proj beside those of z and x.
    """

    scope: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("scope", str, lambda scope: scope in ("all", "s6"), "all or s6")

    unmergeable_reason = None
    alone_reason = "it trains the model's own weights, of which each run needs a copy"

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        if self.scope == "all":
            model.requires_grad_(True)
            return
        train_parameters(model, model.config.scan_params)

    def num_trainable_params(self, config: ModelConfig) -> int:
        return count_parameters(config, config.scan_params) if self.scope == "s6" else config.num_params
