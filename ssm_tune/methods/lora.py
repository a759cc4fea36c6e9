"""LoRA: low-rank updates of named projections. Hu et al. (2021), arXiv 2106.09685. With ``use_dora`` and
``init=pissa`` the two kinds of it that methods/low_rank.py describes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssm_tune.methods.base import Method
from ssm_tune.methods.low_rank import (
    DecomposedProjectionUpdate,
    LowRankUpdate,
    ProjectionUpdate,
    WeightDecomposedUpdate,
    principal_factors,
    projection_updates,
)
from ssm_tune.models.config import FAMILIES, LinearMap, ModelConfig
from ssm_tune.models.initial_values import kaiming
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.mixer import Mixer
from ssm_tune.ops.keyed_dropout import column_bits
from ssm_tune.utils.errors import UserError

ALL = "all"
"""In ``targets``: every projection of a block, whole."""


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """``W + (alpha / rank) B A`` with A Kaiming-uniform and B zero at first; biases stay frozen.

    targets: maps of the model's family (``ModelConfig.linear_maps``), or "all" for all whole projections.
    use_dora: scale each row of the sum to a trained length. init: "pissa" for a start at W's leading singular vectors.
    """

    rank: int
    alpha: float
    dropout: float
    targets: list[str] = field(default_factory=list)
    use_dora: bool | None = None
    init: str | None = None

    later_options = ("use_dora", "init")
    moves_from_step_2 = ("*.A",)  # no gradient while B is zero
    unmergeable_reason = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_count("rank")
        self.require("alpha", float, lambda alpha: 0 < alpha < 1e6, "a positive number")
        self.require("dropout", float, lambda share: 0 <= share < 1, "a number in [0, 1)")
        if self.use_dora not in (None, True, False):
            raise UserError(f"method.use_dora must be true or false, got {self.use_dora!r}")
        object.__setattr__(self, "use_dora", self.use_dora or None)  # false is the default, by whichever name
        if self.init is not None:
            self.require("init", str, lambda start: start == "pissa", "pissa or null")
        if not isinstance(self.targets, list) or not self.targets or len(set(self.targets)) != len(self.targets):
            raise UserError(
                f"method.targets must be a list of at least one projection, each once, got {self.targets}; there are "
                + "; ".join(f"of {family.title} {', '.join(family.map_names)}" for family in FAMILIES.values())
            )
        for name in self.targets:
            whole = str(name).partition(".")[0]
            if whole != name and whole in self.targets:
                raise UserError(f"method.targets names {whole} and a part of it: take the whole or its parts")
        if ALL in self.targets and len(self.targets) > 1:
            raise UserError(f"method.targets names {ALL} and more: {ALL} stands for every projection, whole")

    def check_family(self, family: type[ModelConfig]) -> None:
        for name in self.targets:
            if name not in (*family.map_names, ALL):
                there = ", ".join(family.map_names)
                raise UserError(f"method.targets: {name!r} matches no projection of {family.title}; there are {there}")

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        places = itertools.count(sum(len(update.parts) for update in projection_updates(model)))
        for mixer in model.mixers:
            drawn: dict[str, list[tuple[str, LowRankUpdate, Tensor]]] = {}
            for name, place in self._maps(model.config).items():
                update = self._update(name, place, mixer, generator)
                drawn.setdefault(place.projection, []).append((name, update, column_bits(next(places), place.width)))
            for projection, found in drawn.items():
                found.sort(key=lambda one: one[1].start)
                kind = DecomposedProjectionUpdate if self.use_dora else ProjectionUpdate
                mixer.injection.updates[projection] = kind(
                    {name.rpartition(".")[2]: update for name, update, _ in found},
                    torch.stack([columns for *_, columns in found]).to(model.device),
                    self.dropout,
                    model.randomness,
                    model.selective_recompute,
                )

    def _maps(self, config: ModelConfig) -> dict[str, LinearMap]:
        """The maps that ``targets`` name, by name."""
        known = config.linear_maps
        names = [name for name in known if "." not in name] if self.targets == [ALL] else self.targets
        return {name: known[name] for name in names}

    def _update(self, name: str, place: LinearMap, mixer: Mixer[Any], generator: torch.Generator) -> LowRankUpdate:
        rows, scale = place.end - place.start, self.alpha / self.rank
        weight = getattr(mixer, place.projection).weight.detach()[place.start : place.end]
        if self.init is None:
            A, B = kaiming(generator, self.rank, place.width), torch.zeros(rows, self.rank)
        elif self.rank <= min(rows, place.width):
            A, B = principal_factors(weight, self.rank, scale)
        else:
            raise UserError(
                f"method.init=pissa: {name} is {rows} x {place.width} and has no {self.rank} singular vectors; lower "
                "method.rank, or leave it out of method.targets"
            )
        if self.use_dora:
            return WeightDecomposedUpdate(A, B, place.start, scale, self.init is not None, weight)
        return LowRankUpdate(A, B, place.start, scale, self.init is not None)

    @property
    def alone_reason(self) -> str | None:
        return (
            "each run's rows have lengths of their own, which take the weights of all of them"
            if self.use_dora
            else None
        )

    def num_trainable_params(self, config: ModelConfig) -> int:
        maps = self._maps(config).values()
        rows = sum(place.end - place.start for place in maps)
        factors = self.rank * (rows + sum(place.width for place in maps))
        return config.n_layer * (factors + (rows if self.use_dora else 0))

    def num_fixed_values(self, config: ModelConfig) -> int:
        if self.init is None:
            return 0
        maps = self._maps(config).values()
        return config.n_layer * self.rank * sum(place.width + place.end - place.start for place in maps)
