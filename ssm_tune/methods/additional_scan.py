"""Additional-scan: further state dimensions beside the pretrained ones.

Yoshimura et al. (2024), "MambaPEFT", arXiv 2411.03855, as configured by the official code of State-offset Tuning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AdditionalScan(Method):
    """``states`` new states a channel: rows of the projection for B (Kaiming-uniform) and for C (zero).

    In a Mamba-1 these are rows of x_proj, and A_log gets as many columns. In a Mamba-2 they are rows of in_proj for
    each group of heads, with convolution channels of their own; A is a head's, and holds for its new states as well.

    a_init: what the new A_log entries of a Mamba-1 start as; None for a Mamba-2, which has none.
        "official": 16.0, as the official code has it. A = -e^16 forgets everything within one step, and A_log
        gets next to no gradient: the new states are memoryless, wherever the step size is not tiny. Most likely a
        slip (16 for log 16), yet the published numbers were made with it, so it is the default.
        "s4d": log(N + 1), log(N + 2), ..., which continues the S4D-real start of the pretrained states.
    """

    states: int
    a_init: str | None

    # no gradient while the C rows are zero, and with them what the convolution makes of these
    moves_from_step_2 = tuple(f"*.extra_states.{name}" for name in ("B", "A_log", "conv_B", "bias_B", "conv_C"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_count("states")
        if self.a_init is not None:
            self.require("a_init", str, lambda start: start in ("official", "s4d"), "official or s4d")

    def check_family(self, family: type[ModelConfig]) -> None:
        if family.has_state_decays and self.a_init is None:
            raise UserError(f"method.a_init must be official or s4d for {family.title}, got null")
        if self.a_init is not None and not family.has_state_decays:
            raise UserError(
                f"method.a_init={self.a_init}: {family.title} has one A a head, none for a state; leave it out"
            )

    @property
    def may_stay_fixed(self) -> tuple[str, ...]:
        return ("*.extra_states.A_log",) if self.a_init == "official" else ()

    unmergeable_reason = None
    alone_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        for mixer in model.mixers:
            mixer.injection.extra_states = mixer.new_states(self.states, self.a_init, generator)

    def num_trainable_params(self, config: ModelConfig) -> int:
        return config.n_layer * config.num_extra_state_params(self.states)
