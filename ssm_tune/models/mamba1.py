"""The mixer of a Mamba-1 block, with the parameter names of the published checkpoints.

Gu and Dao (2023), "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752.

    B batch   L length   R rows being decoded   d_model width of the residual stream
    D = expand * d_model channels of a block    N states a channel      K width of the convolution
    x, z  the two halves of in_proj's output    dt, B, C  what x_proj gives the scan     h  state (D, N) a row
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_tune.models.adapter_slots import ExtraStates, slot_value
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.initial_values import kaiming, step_bias, uniform_
from ssm_tune.models.layers import Projection
from ssm_tune.models.mixer import Mixer, States
from ssm_tune.ops.backend import MOST_STATES
from ssm_tune.ops.causal_conv1d import causal_conv1d_update, split_conv1d
from ssm_tune.ops.fused_linear import linear_with_input, split_linear
from ssm_tune.ops.member_rows import cat_parameters
from ssm_tune.ops.selective_scan import selective_scan, selective_state_update


class ChannelStates(ExtraStates):
    """E further states a channel of a Mamba-1: rows of x_proj for B and C (E, D), and columns of A_log (D, E)."""

    def __init__(self, B: Tensor, C: Tensor, A_log: Tensor) -> None:
        super().__init__()
        self.B, self.C, self.A_log = nn.Parameter(B), nn.Parameter(C), nn.Parameter(A_log)

    @property
    def count(self) -> int:
        return self.A_log.shape[-1]

    def widened(self, x_proj: Tensor, A_log: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """x_proj's weight (rank + 2 N, D) as rows to stack, these states' behind those of B and of C, and A_log (D, N)
        with their columns; each in its own dtype and on its device."""
        N = A_log.shape[1]
        kept_B, kept_C = x_proj.split([x_proj.shape[0] - N, N])
        rows = kept_B, self.B.to(x_proj), kept_C, self.C.to(x_proj)
        return rows, cat_parameters([A_log, self.A_log.to(A_log)], dims=2, dim=1)


class MambaMixer(Mixer[MambaConfig]):
    """The block without norm and residual stream."""

    projection_of_B_and_C = "x_proj"
    most_states = MOST_STATES

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(config)
        D, N, K, rank = config.d_inner, config.d_state, config.d_conv, config.dt_rank
        self.in_proj = Projection(config.d_model, 2 * D, bias=False)
        self.conv1d = nn.Conv1d(D, D, K, groups=D, padding=K - 1, bias=True)  # holds the weights, is never called
        self.x_proj = Projection(D, rank + 2 * N, bias=False)
        self.dt_proj = Projection(rank, D, bias=True)
        # not on the meta device, where PyTorch would import its compiler for a logarithm
        start = torch.arange(1, N + 1, dtype=torch.float32, device="cpu").log()
        self.A_log = nn.Parameter(torch.empty(D, N).copy_(start))
        self.D = nn.Parameter(torch.ones(D))
        self.out_proj = Projection(D, config.d_model, bias=False)

    def _scan_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """dt (before bias and softplus), A_log, B, C for the convolved x (..., D), extra states included; and x for the
        scan.

        Raises ValueError where a method gave the block extra states and an update of x_proj.
        """
        extra, N = self.injection.extra_states, self.config.d_state
        A_log: Tensor = self.A_log
        if self.injection.A_log_update is not None:
            A_log = self.injection.A_log_update(A_log)
        if extra is None:
            projected, x = self._project("x_proj", x)
        else:  # one product with all rows, in an order in which B and C need no copies
            if "x_proj" in self.injection.updates:
                raise ValueError("a block takes extra states or an update of x_proj, not both")
            assert isinstance(extra, ChannelStates)
            rows, A_log = extra.widened(self.x_proj.weight.to(x.dtype), A_log)
            projected, x = linear_with_input(x, *rows)
            N = N + extra.count
        # dt_proj's bias is left to the scan, which adds it in the state's dtype, as the original's kernel does
        weight = self.dt_proj.weight.to(x.dtype)
        dt, low, B, C = split_linear(projected, weight, (self.config.dt_rank, N, N))
        self.selective_recompute.register(dt, lambda: F.linear(low.detach(), weight))
        return self._updated("dt_proj", low, dt)[0], A_log, B, C, x

    def scan_sequence(
        self, hidden: Tensor, conv: Tensor | None, ssm: Tensor | None, lengths: Tensor | None, keep: bool
    ) -> tuple[Tensor, States | None]:
        joined, _ = self._project("in_proj", hidden)
        conv_after = self._last_inputs(joined.chunk(2, dim=-1)[0], conv, lengths) if keep else None
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        _, x, z = split_conv1d(joined, 0, taps, bias, conv)
        alone = joined.detach()
        self.selective_recompute.register(x, lambda: split_conv1d(alone, 0, taps, bias, conv)[1])
        dt, A_log, B, C, x = self._scan_inputs(x)
        if lengths is not None:  # softplus(-inf) = 0: a step of size 0 leaves the state as it is
            beyond = torch.arange(x.shape[1], device=x.device) >= lengths.unsqueeze(1)
            dt = dt.masked_fill(beyond.unsqueeze(2), float("-inf"))
        scanned = selective_scan(
            x,
            dt,
            A_log,
            B,
            C,
            self.D,
            z,
            dt_bias=self.dt_proj.bias,
            dt_softplus=True,
            initial_state=self._with_extra(ssm),
            state_offset=self._with_extra(slot_value(self.injection.state_offset)),
            output_offset=slot_value(self.injection.output_offset),
            output_final_state=keep,
            log_A=True,
        )
        if conv_after is None:
            assert isinstance(scanned, Tensor)
            return self._project("out_proj", scanned)[0], None
        y, ssm_after = scanned
        return self._project("out_proj", y)[0], (conv_after, ssm_after)

    def step(
        self,
        hidden: Tensor,
        conv: Tensor,
        ssm: Tensor,
        source: Tensor | None = None,
        into: States | tuple[None, None] = (None, None),
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, z = self._project("in_proj", hidden)[0].chunk(2, dim=-1)
        assert self.conv1d.bias is not None
        x, conv = causal_conv1d_update(x, conv, self.conv1d.weight.squeeze(1), self.conv1d.bias, source, into[0])
        dt, A_log, B, C, x = self._scan_inputs(x)
        y, ssm = selective_state_update(
            ssm,
            x,
            dt,
            A_log,
            B,
            C,
            self.D,
            z,
            dt_bias=self.dt_proj.bias,
            state_offset=self._with_extra(slot_value(self.injection.state_offset)),
            output_offset=slot_value(self.injection.output_offset),
            source=source,
            into=into[1],
            log_A=True,
        )
        return self._project("out_proj", y)[0], conv, ssm

    def new_states(self, count: int, a_init: str | None, generator: torch.Generator) -> ChannelStates:
        D, N = self.config.d_inner, self.config.d_state
        if a_init == "official":
            start = torch.full((count,), 16.0)
        else:
            start = torch.tensor([math.log(N + 1 + extra) for extra in range(count)])
        return ChannelStates(kaiming(generator, count, D), torch.zeros(count, D), start.repeat(D, 1))

    def merge_states(self, weights: dict[str, Tensor]) -> None:
        extra = self.injection.extra_states
        assert isinstance(extra, ChannelStates)
        rows, A_log = extra.widened(weights["x_proj.weight"], weights["A_log"])
        weights.update({"x_proj.weight": torch.cat(rows), "A_log": A_log})

    def initialize(self, generator: torch.Generator) -> None:
        """A_log and D keep the S4D-real start."""
        config = self.config
        for projection in (self.in_proj, self.x_proj, self.out_proj):
            uniform_(projection.weight, 1 / math.sqrt(projection.in_features), generator)
        self.out_proj.weight /= math.sqrt(config.n_layer)  # one addition to the residual stream a layer
        assert self.conv1d.bias is not None
        for tensor in (self.conv1d.weight, self.conv1d.bias):
            uniform_(tensor, 1 / math.sqrt(config.d_conv), generator)
        uniform_(self.dt_proj.weight, config.dt_rank**-0.5, generator)
        self.dt_proj.bias.copy_(step_bias(config.d_inner, generator))
