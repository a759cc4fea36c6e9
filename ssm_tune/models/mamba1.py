"""The mixer of a Mamba-1 block, with the parameter names of the published checkpoints.

Gu and Dao (2023), "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752.

    B batch   L length   R rows being decoded   d_model width of the residual stream
    D = expand * d_model channels of a block    N states a channel      K width of the convolution
    x, z  the two halves of in_proj's output    dt, B, C  what x_proj gives the scan     h  state (D, N) a row
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_tune.models.adapter_slots import AdapterSlots, slot_value
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.layers import Projection
from ssm_tune.models.selective_recompute import SelectiveRecompute
from ssm_tune.ops.causal_conv1d import causal_conv1d_update, split_conv1d
from ssm_tune.ops.fused_linear import linear_with_input, split_linear
from ssm_tune.ops.selective_scan import selective_scan, selective_state_update

States = tuple[Tensor, Tensor]
"""What a row carries from position to position: the convolution's last K-1 inputs (B, K-1, D), oldest first, and the
scan's state (B, D, N)."""


class MambaMixer(nn.Module):
    """The block without norm and residual stream."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        D, N, K, rank = config.d_inner, config.d_state, config.d_conv, config.dt_rank
        self.in_proj = Projection(config.d_model, 2 * D, bias=False)
        self.conv1d = nn.Conv1d(D, D, K, groups=D, padding=K - 1, bias=True)  # holds the weights, is never called
        self.x_proj = Projection(D, rank + 2 * N, bias=False)
        self.dt_proj = Projection(rank, D, bias=True)
        self.A_log = nn.Parameter(torch.arange(1, N + 1, dtype=torch.float32).log().repeat(D, 1))
        self.D = nn.Parameter(torch.ones(D))
        self.out_proj = Projection(D, config.d_model, bias=False)
        self.injection = AdapterSlots()
        self.selective_recompute = SelectiveRecompute()

    def forward(self, hidden: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, States | None]:
        """(B, L, d_model) -> the same shape, and, with lengths, the states after each row's last real position.

        lengths: (B,) real positions of right-padded rows; the states ignore what follows them.
        """
        conv, ssm = self._initial_states(hidden.shape[0])
        return self._run(hidden, conv, ssm, lengths, keep=lengths is not None)

    def _project(self, name: str, input: Tensor) -> tuple[Tensor, Tensor]:
        """A projection's output, and its input for its other reader."""
        out, input = linear_with_input(input, getattr(self, name).weight.to(input.dtype))
        return self._updated(name, input, out)

    def _updated(self, name: str, input: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """A projection's output with what a method adds, and its input for its other reader."""
        if name not in self.injection.updates:
            return out, input
        updated, same = self.injection.updates[name](input, out)
        return updated, same

    def _scan_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """dt (before bias and softplus), A_log, B, C for the convolved x (..., D), extra states included; and x for the
        scan.

        Raises ValueError where a method gave the block extra states and an update of x_proj.
        """
        extra, N = self.injection.extra_states, self.config.d_state
        A_log: Tensor = self.A_log
        if extra is None:
            projected, x = self._project("x_proj", x)
        else:  # one product with all rows, in an order in which B and C need no copies
            if "x_proj" in self.injection.updates:
                raise ValueError("a block takes extra states or an update of x_proj, not both")
            rows, A_log = extra.widened(self.x_proj.weight.to(x.dtype), A_log)
            projected, x = linear_with_input(x, *rows)
            N = N + extra.count
        # dt_proj's bias is left to the scan, which adds it in the state's dtype, as the original's kernel does
        weight = self.dt_proj.weight.to(x.dtype)
        dt, low, B, C = split_linear(projected, weight, (self.config.dt_rank, N, N))
        self.selective_recompute.register(dt, lambda: F.linear(low.detach(), weight))
        return self._updated("dt_proj", low, dt)[0], A_log, B, C, x

    def _initial_states(self, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """The convolution's and the scan's state before the first position, where a method sets them."""
        virtual = slot_value(self.injection.prefix)
        if virtual is None:
            return None, slot_value(self.injection.initial_state)
        tokens = virtual.to(self.in_proj.weight.dtype).unsqueeze(0)
        _, states = self._run(tokens, None, None, None, keep=True)
        assert states is not None
        return states[0].expand(rows, -1, -1), states[1].expand(rows, -1, -1)

    def _run(
        self, hidden: Tensor, conv: Tensor | None, ssm: Tensor | None, lengths: Tensor | None, keep: bool
    ) -> tuple[Tensor, States | None]:
        """The mixer from given states on; keep: also give the states at each row's end."""
        joined, _ = self._project("in_proj", hidden)
        conv_after = self._last_inputs(joined.chunk(2, dim=-1)[0], conv, lengths) if keep else None
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x, z = split_conv1d(joined, taps, bias, conv)
        alone = joined.detach()
        self.selective_recompute.register(x, lambda: split_conv1d(alone, taps, bias, conv)[0])
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

    def _with_extra(self, state: Tensor | None) -> Tensor | None:
        """A (..., D, N) tensor widened by zeros for extra states, unless it has them already."""
        extra = self.injection.extra_states
        if state is None or extra is None or state.shape[-1] != self.config.d_state:
            return state
        return F.pad(state, (0, extra.count))

    def _last_inputs(self, x: Tensor, before: Tensor | None, lengths: Tensor | None) -> Tensor:
        """The last K-1 inputs of the convolution up to each row's end, (B, K-1, D)."""
        rows, length, channels = x.shape
        width = self.config.d_conv - 1
        if before is None:
            before = x.new_zeros(rows, width, channels)
        padded = torch.cat([before.to(x.dtype), x], dim=1)
        if lengths is None:
            return padded[:, length:]
        index = lengths.unsqueeze(1) + torch.arange(width, device=x.device)
        return padded.gather(1, index.unsqueeze(2).expand(-1, -1, channels))

    def step(
        self,
        hidden: Tensor,
        conv: Tensor,
        ssm: Tensor,
        source: Tensor | None = None,
        into: States | tuple[None, None] = (None, None),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One position: (R, d_model) and the two states, which it may change -> output and the states after it.

        source, into: as ``selective_state_update`` takes them.
        """
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
