"""Additional-scan: further state dimensions beside the pretrained ones.

Yoshimura et al. (2024), "MambaPEFT", arXiv 2411.03855, as configured by the official code of State-offset Tuning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method, kaiming
from ssm_tune.models.adapter_slots import ExtraStates
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.mamba import Mamba


@dataclass(frozen=True, kw_only=True)
class AdditionalScan(Method):
    """``states`` new rows of x_proj for B (Kaiming-uniform) and for C (zero), and as many columns of A_log.

    a_init: what the new A_log entries start as.
        "official": 16.0, as the official code has it. A = -e^16 forgets everything within one step, and A_log
        gets next to no gradient: the new states are memoryless, wherever the step size is not tiny. Most likely a
        slip (16 for log 16), yet the published numbers were made with it, so it is the default.
        "s4d": log(N + 1), log(N + 2), ..., which continues the S4D-real start of the pretrained states.
    """

    states: int
    a_init: str

    moves_from_step_2 = ("*.extra_states.B", "*.extra_states.A_log")  # no gradient while the C rows are zero

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_count("states")
        self.require("a_init", str, lambda start: start in ("official", "s4d"), "official or s4d")

    @property
    def may_stay_fixed(self) -> tuple[str, ...]:
        return ("*.extra_states.A_log",) if self.a_init == "official" else ()

    unmergeable_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        D, N = model.config.d_inner, model.config.d_state
        if self.a_init == "official":
            start = torch.full((self.states,), 16.0)
        else:
            start = torch.tensor([math.log(N + 1 + extra) for extra in range(self.states)])
        for mixer in model.mixers:
            B, C = kaiming(generator, self.states, D), torch.zeros(self.states, D)
            mixer.injection.extra_states = ExtraStates(B, C, start.repeat(D, 1))

    def num_trainable_params(self, config: MambaConfig) -> int:
        return config.n_layer * 3 * self.states * config.d_inner
