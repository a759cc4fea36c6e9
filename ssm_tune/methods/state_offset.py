"""State-offset Tuning (h): ``y_t = C_t (h_t + h')``. Kang et al. (2025), arXiv 2503.03499, section 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method
from ssm_tune.models.adapter_slots import LearnedTensor, LowRank
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.initial_values import kaiming
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StateOffset(Method):
    """One h' (D, N) a layer, zero at first.

    rank: h' = scale U V with U (D, rank) Kaiming-uniform and V (rank, N) zero at first; None for a full h'.
    scale: 1 where None. Adam moves each entry of V by about the learning rate, and so h' by scale times that: it is the
        rate of V as a multiple of U's (as the two rates of LoRA+, Hayou et al. 2024, arXiv 2402.12354).
    """

    rank: int | None = None
    scale: float | None = None

    later_options = ("scale",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None:
            self.require_count("rank")
        if self.scale is not None:
            self.require("scale", float, lambda scale: 0 < scale < 1e6, "a positive number")
            if self.rank is None:
                raise UserError("method.scale is for a low-rank h': add method.rank, or leave it out")

    moves_from_step_2 = ("*.state_offset.U",)  # no gradient while V is zero

    unmergeable_reason = "its offset is read beside the state at every step"
    alone_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        D, N = model.config.d_inner, model.config.d_state
        for mixer in model.mixers:
            if self.rank is None:
                mixer.injection.state_offset = LearnedTensor(torch.zeros(D, N))
            else:
                U, V = kaiming(generator, D, self.rank), torch.zeros(self.rank, N)
                mixer.injection.state_offset = LowRank(U, V, self.scale)

    def num_trainable_params(self, config: ModelConfig) -> int:
        D, N = config.d_inner, config.d_state
        return config.n_layer * (D * N if self.rank is None else self.rank * (D + N))
