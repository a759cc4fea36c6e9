"""Sparse dimension tuning (SDT): a few channels and states of the scan's own parameters, chosen by a warm-up.

Galim et al. (2025), "Parameter-Efficient Fine-Tuning of State Space Models", arXiv 2410.09016, section 5, as their code
does it (github.com/furiosa-ai/ssm-peft, sd_lora.py). D channels of a block, N states a channel.

1. Warm-up: all of A_log and the low-rank updates train, from the training's first batch on.
2. The channels are chosen whose A_log moved farthest (by the sum of squares over their states), and of each of these
   the states that did. Everything is put back to where it was before the warm-up.
3. Training: of the chosen channels the chosen states' entries of A_log, and the columns of x_proj's rows for B and C;
   beside them low-rank updates of other projections, from new.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_tune.config.groups import method_section
from ssm_tune.methods.base import Method, load_method
from ssm_tune.models.adapter_slots import ParameterUpdate, ProjectionChange
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError


class ChosenStates(ParameterUpdate):
    """A_log (D, N) with a change: of all entries in the warm-up, of the chosen states afterwards.

    channels: (C,) int64; states: (C, S) int64, of each of them. warming: 1 in the warm-up, then 0.
    """

    channels: Tensor
    states: Tensor
    warming: Tensor

    def __init__(self, shape: tuple[int, int], channels: int, states: int) -> None:
        super().__init__()
        self.whole_A_log = nn.Parameter(torch.zeros(shape))
        self.A_log = nn.Parameter(torch.zeros(channels, states))
        self.register_buffer("channels", torch.arange(channels))
        self.register_buffer("states", torch.arange(states).repeat(channels, 1))
        self.register_buffer("warming", torch.ones(()))

    def forward(self, own: Tensor) -> Tensor:
        places = (self.channels.unsqueeze(1) * own.shape[1] + self.states).flatten()
        chosen = ((1 - self.warming) * self.A_log).to(own.dtype).flatten()
        whole = own + self.warming.to(own.dtype) * self.whole_A_log.to(own.dtype)
        return whole.flatten().index_add(0, places, chosen).view_as(own)

    def choose(self) -> None:
        """End the warm-up: take the channels and states that have moved farthest, the farthest first."""
        moved = self.whole_A_log.square()
        self.channels.copy_(moved.sum(1).argsort(descending=True, stable=True)[: len(self.channels)])
        order = moved[self.channels].argsort(dim=1, descending=True, stable=True)
        self.states.copy_(order[:, : self.states.shape[1]])
        self.warming.zero_()


class ChosenColumns(ProjectionChange):
    """x_proj with a change of some columns of its rows for B and C: ``columns`` (2 N, C), of ``channels`` (C,) int64.

    warming: 1 in the warm-up, in which nothing changes, then 0.
    """

    channels: Tensor
    warming: Tensor

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.zeros(rows, channels))
        self.register_buffer("channels", torch.arange(channels))
        self.register_buffer("warming", torch.ones(()))

    def forward(self, x: Tensor, out: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        columns = ((1 - self.warming) * self.columns).to(x.dtype)
        added = F.linear(x.index_select(-1, self.channels), columns)
        kept, changed = out.split([out.shape[-1] - added.shape[-1], added.shape[-1]], dim=-1)
        return torch.cat([kept, changed + added], dim=-1), x

    def merge(self, weight: Tensor) -> None:
        rows, columns = weight[-len(self.columns) :], (1 - self.warming) * self.columns
        merged = rows.double().index_add(1, self.channels.cpu(), columns.cpu().double())
        rows.copy_(merged.to(weight.dtype))


@dataclass(frozen=True, kw_only=True)
class SDT(Method):
    """frozen_channels, frozen_states: the shares of the D channels, and of the N states of A_log, that are not trained.
    At least one of each is. warmup_steps: no more than the training has are made. rank, alpha, dropout, targets: of the
    low-rank updates beside it, as of lora.
    """

    frozen_channels: float
    frozen_states: float
    warmup_steps: int
    rank: int
    alpha: float
    dropout: float
    targets: list[str] = field(default_factory=list)

    moves_from_step_2 = ("*.A",)
    unmergeable_reason = None
    alone_reason = "each run's warm-up chooses dimensions of its own"
    warmup_only = ("*.A_log_update.whole_A_log",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for share in ("frozen_channels", "frozen_states"):
            self.require(share, float, lambda value: 0 <= value < 1, "a number in [0, 1)")
        self.require_count("warmup_steps")
        options = {name: getattr(self, name) for name in ("rank", "alpha", "dropout", "targets")}
        object.__setattr__(self, "_lora", load_method(method_section("lora", options)))
        if any(str(name).partition(".")[0] in ("x_proj", "all") for name in self.targets):
            raise UserError("method.targets: sdt changes x_proj itself; take others of in_proj, dt_proj and out_proj")

    @property
    def lora(self) -> Method:
        """The low-rank updates beside it."""
        found: Method = self._lora  # type: ignore[attr-defined]
        return found

    @property
    def num_warmup_steps(self) -> int:
        return self.warmup_steps

    def check_family(self, family: type[ModelConfig]) -> None:
        if not family.has_state_decays:
            raise UserError(f"method=sdt: {family.title} has one A a head, and no channel's or state's own to choose")
        self.lora.check_family(family)

    def sizes(self, config: ModelConfig) -> tuple[int, int]:
        """The numbers of channels and, of each, of states that are trained, rounded as the authors' code does."""
        D, N = config.d_inner, config.d_state
        return max(1, D - round(self.frozen_channels * D)), max(1, N - round(self.frozen_states * N))

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        (channels, states), config = self.sizes(model.config), model.config
        for mixer in model.mixers:
            mixer.injection.A_log_update = ChosenStates((config.d_inner, config.d_state), channels, states)
            mixer.injection.updates["x_proj"] = ChosenColumns(2 * config.d_state, channels)
        self.lora.apply(model, generator)

    def finish_warmup(self, model: Mamba) -> None:
        for mixer in model.mixers:
            chosen, columns = mixer.injection.A_log_update, mixer.injection.updates["x_proj"]
            assert isinstance(chosen, ChosenStates)
            assert isinstance(columns, ChosenColumns)
            chosen.choose()
            columns.channels.copy_(chosen.channels)
            columns.warming.zero_()

    def wrong_values(self, model: Mamba) -> str | None:
        for mixer in model.mixers:
            slots = mixer.injection
            for name, limit in (("channels", model.config.d_inner), ("states", model.config.d_state)):
                for module in (slots.A_log_update, slots.updates["x_proj"]):
                    chosen = getattr(module, name, None)
                    if chosen is not None and not bool(((chosen >= 0) & (chosen < limit)).all()):
                        return f"{name} must be numbers from 0 to {limit - 1}"
        return None

    def num_trainable_params(self, config: ModelConfig) -> int:
        channels, states = self.sizes(config)
        own = channels * states + 2 * config.d_state * channels
        return config.n_layer * own + self.lora.num_trainable_params(config)

    def num_fixed_values(self, config: ModelConfig) -> int:
        channels, states = self.sizes(config)
        return config.n_layer * (channels + channels * states + 1 + channels + 1)
