"""A Mamba-2 mixer, with the parameter names of the published checkpoints.

Dao and Gu (2024), "Transformers are SSMs", arXiv 2405.21060, section 7.

    B batch   L length   R rows being decoded   d_model width of the residual stream
    D = H P channels of a block: H heads of P channels    N states a channel    G groups of heads that share B and C
    W = D + 2 G N channels of the convolution: x, B, C     K its width

in_proj gives z (D), x (D), B (G N), C (G N) and dt (H), in this order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssm_tune.models.adapter_slots import ExtraStates, slot_value
from ssm_tune.models.config import Mamba2Config
from ssm_tune.models.initial_values import kaiming, step_bias, uniform_
from ssm_tune.models.layers import GatedRMSNorm, Projection
from ssm_tune.models.mixer import Mixer, States
from ssm_tune.ops.causal_conv1d import causal_conv1d_update, split_conv1d
from ssm_tune.ops.fused_linear import linear_with_input
from ssm_tune.ops.member_rows import cat_parameters
from ssm_tune.ops.packed_gradients import split_slices
from ssm_tune.ops.state_space_dual import state_space_dual, state_space_dual_update
from ssm_tune.ops.state_space_dual.checks import MOST_STATES

A_RANGE = 1.0, 16.0
"""Where -A is drawn from before pretraining, uniformly (the original's A_init_range)."""


class GroupedStates(ExtraStates):
    """E further states a channel of a Mamba-2: rows of in_proj for B and C (G E, d_model), with the taps (G E, K) and
    biases (G E,) of their convolution. A is a head's, and theirs as well."""

    def __init__(self, groups: int, parts: dict[str, Tensor]) -> None:
        super().__init__()
        self.groups = groups
        for name, value in parts.items():
            self.register_parameter(name, nn.Parameter(value))

    @property
    def count(self) -> int:
        return self._own("B").shape[-2] // self.groups

    def _own(self, name: str) -> Tensor:
        value = getattr(self, name)
        assert isinstance(value, Tensor)
        return value

    def widened(self, whole: Tensor, sizes: Sequence[int], further: dict[int, str]) -> list[Tensor]:
        """The rows of ``whole`` in blocks of ``sizes``, where ``further`` names the parameter whose rows stand behind
        those of each group in a block, by the block's number."""
        found: list[Tensor] = []
        for number, block in enumerate(whole.split(list(sizes))):
            if number not in further:
                found.append(block)
                continue
            own = self._own(further[number]).to(whole)
            rows = own.dim() - whole.dim()  # the members' have another dimension before theirs
            for kept, new in zip(block.chunk(self.groups), own.chunk(self.groups, dim=rows), strict=True):
                found += [kept, new]
        return found


class Mamba2Mixer(Mixer[Mamba2Config]):
    """The block without norm and residual stream."""

    projection_of_B_and_C = "in_proj"
    most_states = MOST_STATES

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__(config)
        D, H, W, K = config.d_inner, config.nheads, config.conv_channels, config.d_conv
        self.in_proj = Projection(config.d_model, D + W + H, bias=False)
        self.conv1d = nn.Conv1d(W, W, K, groups=W, padding=K - 1, bias=True)  # a holder of weights only
        self.dt_bias = nn.Parameter(torch.zeros(H))
        self.A_log = nn.Parameter(torch.zeros(H))
        self.D = nn.Parameter(torch.ones(H))
        self.norm = GatedRMSNorm(D, config.norm_eps, config.ngroups)
        self.out_proj = Projection(D, config.d_model, bias=False)

    def _sizes(self, states: int) -> tuple[int, int, int, int, int]:
        """Widths of z, x, B, C and dt with so many states."""
        config = self.config
        return config.d_inner, config.d_inner, config.ngroups * states, config.ngroups * states, config.nheads

    def _in_proj(self, hidden: Tensor) -> tuple[Tensor, int]:
        """z, the convolution's input and dt behind each other (..., D + W + H), and the number of states, extra ones
        included.

        Raises ValueError where a method gave the block extra states and an update of in_proj.
        """
        extra, states = self.injection.extra_states, self.config.d_state
        if extra is None:
            joined, _ = self._project("in_proj", hidden)
        else:
            if "in_proj" in self.injection.updates:
                raise ValueError("a block takes extra states or an update of in_proj, not both")
            assert isinstance(extra, GroupedStates)
            rows = extra.widened(self.in_proj.weight.to(hidden.dtype), self._sizes(states), {2: "B", 3: "C"})
            (joined, _), states = linear_with_input(hidden, *rows), states + extra.count
        return joined, states

    def _conv_weights(self) -> tuple[Tensor, Tensor]:
        """Taps (W, K) and biases (W,), with those of extra states."""
        weight, bias, extra = self.conv1d.weight.squeeze(1), self.conv1d.bias, self.injection.extra_states
        assert bias is not None
        if extra is None:
            return weight, bias
        assert isinstance(extra, GroupedStates)
        sizes = self._sizes(self.config.d_state)[1:4]
        taps = cat_parameters(extra.widened(weight, sizes, {1: "conv_B", 2: "conv_C"}), dims=2, dim=0)
        return taps, cat_parameters(extra.widened(bias, sizes, {1: "bias_B", 2: "bias_C"}), dims=1, dim=0)

    def _by_head(self, x: Tensor, states: int) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., H, P), B and C (..., G, N) of the convolution's output (..., W)."""
        groups = self.config.ngroups
        x, B, C = split_slices(x, self._sizes(states)[1:4])
        return x.unflatten(-1, (-1, self.config.headdim)), *(part.unflatten(-1, (groups, -1)) for part in (B, C))

    def _state_by_head(self, state: Tensor | None) -> Tensor | None:
        """(..., D, N) -> (..., H, P, N)"""
        state = self._with_extra(state)
        return None if state is None else state.unflatten(-2, (-1, self.config.headdim))

    def _offsets(self) -> dict[str, Tensor | None]:
        offset = slot_value(self.injection.output_offset)
        return {
            "state_offset": self._state_by_head(slot_value(self.injection.state_offset)),
            "output_offset": None if offset is None else offset.unflatten(-1, (-1, self.config.headdim)),
        }

    def _out(self, y: Tensor, z: Tensor) -> Tensor:
        return self._project("out_proj", self.norm(y.flatten(-2), z))[0]

    def scan_sequence(
        self, hidden: Tensor, conv: Tensor | None, ssm: Tensor | None, lengths: Tensor | None, keep: bool
    ) -> tuple[Tensor, States | None]:
        joined, states = self._in_proj(hidden)
        D, H = self.config.d_inner, self.config.nheads
        conv_after = self._last_inputs(joined[..., D:-H], conv, lengths) if keep else None
        z, convolved, dt = split_conv1d(joined, D, *self._conv_weights(), conv)
        x, B, C = self._by_head(convolved, states)
        scanned = state_space_dual(
            x,
            dt,
            self.A_log,
            B,
            C,
            self.D,
            dt_bias=self.dt_bias,
            dt_limit=self.config.dt_limit,
            initial_state=self._state_by_head(ssm),
            lengths=lengths,
            output_final_state=keep,
            **self._offsets(),
        )
        if conv_after is None:
            assert isinstance(scanned, Tensor)
            return self._out(scanned, z), None
        y, ssm_after = scanned
        return self._out(y, z), (conv_after, ssm_after.flatten(1, 2))

    def step(
        self,
        hidden: Tensor,
        conv: Tensor,
        ssm: Tensor,
        source: Tensor | None = None,
        into: States | tuple[None, None] = (None, None),
    ) -> tuple[Tensor, Tensor, Tensor]:
        joined, states = self._in_proj(hidden)
        D, H = self.config.d_inner, self.config.nheads
        z, raw, dt = joined.split([D, joined.shape[-1] - D - H, H], dim=-1)
        convolved, conv = causal_conv1d_update(raw, conv, *self._conv_weights(), source, into[0])
        x, B, C = self._by_head(convolved, states)
        y, state = state_space_dual_update(
            ssm.unflatten(1, (-1, self.config.headdim)),
            x,
            dt,
            self.A_log,
            B,
            C,
            self.D,
            dt_bias=self.dt_bias,
            dt_limit=self.config.dt_limit,
            source=source,
            into=None if into[1] is None else into[1].unflatten(1, (-1, self.config.headdim)),
            **self._offsets(),
        )
        return self._out(y, z), conv, state.flatten(1, 2)

    def new_states(self, count: int, a_init: str | None, generator: torch.Generator) -> GroupedStates:
        """The rows for B and the taps of both start Kaiming-uniform, the rows for C and the biases at zero."""
        rows, width, K = self.config.ngroups * count, self.config.d_model, self.config.d_conv
        return GroupedStates(
            self.config.ngroups,
            {
                "B": kaiming(generator, rows, width),
                "C": torch.zeros(rows, width),
                "conv_B": kaiming(generator, rows, K),
                "conv_C": kaiming(generator, rows, K),
                "bias_B": torch.zeros(rows),
                "bias_C": torch.zeros(rows),
            },
        )

    def merge_states(self, weights: dict[str, Tensor]) -> None:
        extra = self.injection.extra_states
        assert isinstance(extra, GroupedStates)
        sizes = self._sizes(self.config.d_state)
        conv1d = weights["conv1d.weight"].squeeze(1)
        weights.update(
            {
                "in_proj.weight": torch.cat(extra.widened(weights["in_proj.weight"], sizes, {2: "B", 3: "C"})),
                "conv1d.weight": torch.cat(extra.widened(conv1d, sizes[1:4], {1: "conv_B", 2: "conv_C"})).unsqueeze(1),
                "conv1d.bias": torch.cat(extra.widened(weights["conv1d.bias"], sizes[1:4], {1: "bias_B", 2: "bias_C"})),
            }
        )

    def initialize(self, generator: torch.Generator) -> None:
        config = self.config
        for projection in (self.in_proj, self.out_proj):
            uniform_(projection.weight, 1 / math.sqrt(projection.in_features), generator)
        self.out_proj.weight /= math.sqrt(config.n_layer)  # one addition to the residual stream a layer
        assert self.conv1d.bias is not None
        for tensor in (self.conv1d.weight, self.conv1d.bias):
            uniform_(tensor, 1 / math.sqrt(config.d_conv), generator)
        self.dt_bias.copy_(step_bias(config.nheads, generator))
        self.A_log.copy_(torch.empty(config.nheads).uniform_(*A_RANGE, generator=generator).log())
