"""State-offset Tuning (h): ``y_t = C_t (h_t + h')``. Kang et al. (2025), arXiv 2503.03499, section 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssm_tune.methods.base import Method, kaiming
from ssm_tune.models.adapter_slots import LearnedTensor, LowRank
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.mamba import Mamba


@dataclass(frozen=True, kw_only=True)
class StateOffset(Method):
    """One h' (D, N) a layer, zero at first. ``rank``: h' = U V with V (rank, N) zero at first; None for a full h'."""

    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None:
            self.require_count("rank")

    moves_from_step_2 = ("*.state_offset.U",)  # no gradient while V is zero

    unmergeable_reason = "its offset is read beside the state at every step"

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        D, N = model.config.d_inner, model.config.d_state
        for mixer in model.mixers:
            if self.rank is None:
                mixer.injection.state_offset = LearnedTensor(torch.zeros(D, N))
            else:
                mixer.injection.state_offset = LowRank(kaiming(generator, D, self.rank), torch.zeros(self.rank, N))

    def num_trainable_params(self, config: MambaConfig) -> int:
        D, N = config.d_inner, config.d_state
        return config.n_layer * (D * N if self.rank is None else self.rank * (D + N))
