"""LoRA: low-rank updates of named projections. Hu et al. (2021), arXiv 2106.09685."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssm_tune.methods.base import Method
from ssm_tune.models.adapter_slots import Randomness
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.initial_values import kaiming
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.selective_recompute import SelectiveRecompute
from ssm_tune.ops.fused_linear import add_low_rank, batched_linear, linear_with_input
from ssm_tune.ops.keyed_dropout import column_bits, keyed_dropout
from ssm_tune.utils.errors import UserError


class LowRankUpdate(nn.Module):
    """The weights of ``x -> scale * dropout(x) A^T B^T``, A (r, in) and B (out, r), which is added to the rows of a
    projection's output from ``start`` on."""

    def __init__(self, A: Tensor, B: Tensor, start: int, scale: float) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.start, self.end, self.scale = start, start + B.shape[0], scale


class ProjectionUpdate(nn.Module):
    """The updates of one projection, each on its own rows of the output.

    They share rank and scale, so that all dropouts, and all products with A, are one operation each.

    parts: by name, in the order of their rows. columns: (parts, in) int32 on the input's device, the bits that the
    dropouts' decisions depend on beside the rows' (ops/keyed_dropout).
    """

    columns: Tensor

    def __init__(
        self,
        parts: dict[str, LowRankUpdate],
        columns: Tensor,
        dropout: float,
        randomness: Randomness,
        selective_recompute: SelectiveRecompute,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.randomness = randomness
        self.selective_recompute = selective_recompute
        self.parts = nn.ModuleDict(parts)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Add the updates for the projection's input to its output, in place; that, and x for its other reader.

        x: (B, L, in) or (R, in) without dropout; out: (..., out).
        """
        updates: list[LowRankUpdate] = list(self.parts.values())  # type: ignore[arg-type]
        scale, downs = updates[0].scale, tuple(update.A for update in updates)
        A = (torch.stack(downs) if len(downs) > 1 else downs[0].unsqueeze(0)).to(x.dtype)
        if self.training and self.dropout > 0:
            flat, x = self._dropped(x)
            low = batched_linear(flat, A)
            scale /= 1 - self.dropout
        else:
            low, x = linear_with_input(x, A.flatten(0, 1))
            low = low.flatten(0, -2).unflatten(-1, (len(updates), -1)).movedim(-2, 0)
        starts, ups = [update.start for update in updates], [update.B.to(x.dtype) for update in updates]
        self.selective_recompute.chain(out, lambda before: add_low_rank(before, low.detach(), starts, scale, *ups))
        return add_low_rank(out, low, starts, scale, *ups), x

    def _dropped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For each part a copy of x (B, L, in) with elements dropped, (parts, B L, in); and x for its other reader."""
        rows, recompute = self.randomness.rows(x), self.selective_recompute
        # recomputing a single copy saves nothing: x would be kept in its place
        worthwhile = len(self.parts) > 1 or recompute.registered(x)
        source = recompute.source(x) if worthwhile else None
        dropped, x = keyed_dropout(x, rows, self.columns, self.dropout)
        flat = dropped.flatten(1, -2)
        if source is not None:

            def again() -> Tensor:
                return keyed_dropout(source(), rows, self.columns, self.dropout)[0].flatten(1, -2)

            recompute.register(flat, again)
        return flat, x


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """``W + (alpha / rank) B A`` with A Kaiming-uniform and B zero at first; biases stay frozen."""

    rank: int
    alpha: float
    dropout: float
    targets: list[str] = field(default_factory=list)

    moves_from_step_2 = ("*.A",)  # no gradient while B is zero

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_count("rank")
        self.require("alpha", float, lambda alpha: 0 < alpha < 1e6, "a positive number")
        self.require("dropout", float, lambda share: 0 <= share < 1, "a number in [0, 1)")
        if not isinstance(self.targets, list) or not self.targets or len(set(self.targets)) != len(self.targets):
            raise UserError(f"method.targets must be a list of at least one projection, each once, got {self.targets}")
        for name in self.targets:
            whole = name.partition(".")[0]
            if whole != name and whole in self.targets:
                raise UserError(f"method.targets names {whole} and a part of it: take the whole or its parts")

    def check_family(self, family: type[ModelConfig]) -> None:
        for name in self.targets:
            if name not in family.map_names:
                there = ", ".join(family.map_names)
                raise UserError(f"method.targets: {name!r} matches no projection of {family.title}; there are {there}")

    unmergeable_reason = None

    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        known = model.config.linear_maps
        places = itertools.count()
        for mixer in model.mixers:
            drawn: dict[str, list[tuple[str, LowRankUpdate, Tensor]]] = {}
            for name in self.targets:
                projection, width, start, end = known[name]
                A, B = kaiming(generator, self.rank, width), torch.zeros(end - start, self.rank)
                update = LowRankUpdate(A, B, start, self.alpha / self.rank)
                drawn.setdefault(projection, []).append((name, update, column_bits(next(places), width)))
            for projection, found in drawn.items():
                found.sort(key=lambda one: one[1].start)
                mixer.injection.updates[projection] = ProjectionUpdate(
                    {name.rpartition(".")[2]: update for name, update, _ in found},
                    torch.stack([columns for *_, columns in found]).to(model.device),
                    self.dropout,
                    model.randomness,
                    model.selective_recompute,
                )

    def num_trainable_params(self, config: ModelConfig) -> int:
        known = config.linear_maps
        sizes = [known[name].width + known[name].end - known[name].start for name in self.targets]
        return config.n_layer * self.rank * sum(sizes)
