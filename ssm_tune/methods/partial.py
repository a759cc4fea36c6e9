"""Partial tuning: some of the model's own parameters, as they stand in the checkpoint.

Yoshimura et al. (2025), "MambaPEFT", arXiv 2411.03855, and Galim et al. (2025), arXiv 2410.09016, compare A, D, the
convolution, the biases and the projections so, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ssm_tune.methods.base import Method
from ssm_tune.methods.own_parameters import check_names, count_parameters, train_parameters
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Partial(Method):
    """The parameters that ``parameters`` names (methods/own_parameters.py), of every layer and beside the layers."""

    parameters: list[str] = field(default_factory=list)

    unmergeable_reason = None
    alone_reason = "it trains the model's own weights, of which each run needs a copy"

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.parameters
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise UserError(f"method.parameters must be a list of at least one parameter's name, got {names!r}")

    def check_family(self, family: type[ModelConfig]) -> None:
        check_names(family, self.parameters, "method.parameters")

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        train_parameters(model, self.parameters)

    def num_trainable_params(self, config: ModelConfig) -> int:
        return count_parameters(config, self.parameters)
