"""A Mamba-1 block and its sizes, readable, with the parameter names of the published checkpoints.

Gu and Dao (2023), "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752.

    B batch   L length   R rows being decoded   V vocabulary (padded)   d_model width of the residual stream
    D = expand * d_model channels of a block    N states a channel      K width of the convolution
    x, z  the two halves of in_proj's output    dt, B, C  what x_proj gives the scan     h  state (D, N) a row
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_tune.models.adapter_slots import Injection, tensor_of
from ssm_tune.models.selective_recompute import Recipes
from ssm_tune.ops.causal_conv1d import conv1d_step, split_conv1d
from ssm_tune.ops.fused_linear import linear_beside, split_linear
from ssm_tune.ops.rms_norm import add_rms_norm
from ssm_tune.ops.selective_scan import selective_scan, selective_scan_step


@dataclass(frozen=True)
class MambaConfig:
    """Sizes of a Mamba-1. ``vocab_size`` counts the embedding's rows, padding included."""

    d_model: int
    n_layer: int
    vocab_size: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int = 0
    """Width of the step size's bottleneck; 0 stands for ceil(d_model / 16), the published rule."""
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    residual_in_fp32: bool = True

    def __post_init__(self) -> None:
        if self.dt_rank == 0:
            object.__setattr__(self, "dt_rank", math.ceil(self.d_model / 16))
        for name in ("d_model", "n_layer", "vocab_size", "d_state", "d_conv", "expand", "dt_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"MambaConfig: {name} must be at least 1, got {getattr(self, name)}")

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model


def kept_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the parameter ``name`` is kept beside others in ``dtype``: A_log and D in float32 at least.

    They act on every step of the recurrence, and the published checkpoints keep them so.
    """
    return torch.promote_types(dtype, torch.float32) if name.endswith(("A_log", ".D")) else dtype


class Projection(nn.Linear):
    """A linear map whose weight may be kept in another dtype than the activations (an adapter's float32)."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class MambaMixer(nn.Module):
    """The block without norm and residual."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        D, N, K, rank = config.d_inner, config.d_state, config.d_conv, config.dt_rank
        self.in_proj = Projection(config.d_model, 2 * D, bias=False)
        self.conv1d = nn.Conv1d(D, D, K, groups=D, padding=K - 1, bias=True)  # a holder of weights only
        self.x_proj = Projection(D, rank + 2 * N, bias=False)
        self.dt_proj = Projection(rank, D, bias=True)
        self.A_log = nn.Parameter(torch.arange(1, N + 1, dtype=torch.float32).log().repeat(D, 1))
        self.D = nn.Parameter(torch.ones(D))
        self.out_proj = Projection(D, config.d_model, bias=False)
        self.injection = Injection()
        self.recipes = Recipes()

    def _project(self, name: str, input: Tensor) -> tuple[Tensor, Tensor]:
        """A projection's output, and its input for whoever else reads it."""
        out, input = linear_beside(input, getattr(self, name).weight.to(input.dtype))
        return self._updated(name, input, out)

    def _updated(self, name: str, input: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """A projection's output with what a method adds, and its input for whoever else reads it."""
        if name not in self.injection.updates:
            return out, input
        updated, beside = self.injection.updates[name](input, out)
        return updated, beside

    def _scan_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """dt (before bias and softplus), A_log, B, C for the convolved x (..., D), extra states included; and x for the
        scan.

        Raises ValueError where a method gave the block extra states and an update of x_proj.
        """
        extra, N = self.injection.extra_states, self.config.d_state
        A_log: Tensor = self.A_log
        if extra is None:
            projected, x = self._project("x_proj", x)
        else:  # one product with all rows; their order spares copies of B and C
            if "x_proj" in self.injection.updates:
                raise ValueError("a block takes extra states or an update of x_proj, not both")
            rows, A_log = extra.widened(self.x_proj.weight.to(x.dtype), A_log)
            (projected, x), N = linear_beside(x, *rows), N + extra.count
        # dt_proj's bias is left to the scan, which adds it in the state's dtype, as the original's kernel does
        weight = self.dt_proj.weight.to(x.dtype)
        dt, low, B, C = split_linear(projected, weight, (self.config.dt_rank, N, N))
        self.recipes.offer(dt, lambda: F.linear(low.detach(), weight))
        return self._updated("dt_proj", low, dt)[0], A_log, B, C, x

    def _start(self, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """The convolution's and the scan's state before the first position, where a method sets them."""
        virtual = tensor_of(self.injection.prefix)
        if virtual is None:
            return None, tensor_of(self.injection.initial_state)
        tokens = virtual.to(self.in_proj.weight.dtype).unsqueeze(0)
        _, last = self._run(tokens, None, None, None, keep=True)
        assert last is not None
        return last[0].expand(rows, -1, -1), last[1].expand(rows, -1, -1)

    def forward(self, hidden: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """(B, L, d_model) -> the same shape, and, with lengths, the two states after each row's last real position.

        lengths: (B,) real positions of right-padded rows; the states ignore what follows them.
        """
        conv, ssm = self._start(hidden.shape[0])
        return self._run(hidden, conv, ssm, lengths, keep=lengths is not None)

    def _run(
        self, hidden: Tensor, conv: Tensor | None, ssm: Tensor | None, lengths: Tensor | None, keep: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        joined, _ = self._project("in_proj", hidden)
        last_conv = self._last_inputs(joined.chunk(2, dim=-1)[0], conv, lengths) if keep else None
        x, z = split_conv1d(joined, self.conv1d.weight.squeeze(1), self.conv1d.bias, conv)
        alone = joined.detach()
        self.recipes.offer(x, lambda: split_conv1d(alone, self.conv1d.weight.squeeze(1), self.conv1d.bias, conv)[0])
        dt, A_log, B, C, x = self._scan_inputs(x)
        if lengths is not None:  # softplus(-inf) = 0: a step of size 0 leaves the state as it is
            beyond = torch.arange(x.shape[1], device=x.device) >= lengths.unsqueeze(1)
            dt = dt.masked_fill(beyond.unsqueeze(2), float("-inf"))
        y, last_ssm = selective_scan(
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
            state_offset=self._with_extra(tensor_of(self.injection.state_offset)),
            output_offset=tensor_of(self.injection.output_offset),
            return_last_state=True,
            log_A=True,
        )
        return self._project("out_proj", y)[0], None if last_conv is None else (last_conv, last_ssm)

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
        self, hidden: Tensor, conv: Tensor, ssm: Tensor, source: Tensor | None = None,
        into: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """One position: (R, d_model) and the two states, which it may change -> output and the states after it."""
        x, z = self._project("in_proj", hidden)[0].chunk(2, dim=-1)
        assert self.conv1d.bias is not None
        x, conv = conv1d_step(x, conv, self.conv1d.weight.squeeze(1), self.conv1d.bias, source, into[0])
        dt, A_log, B, C, x = self._scan_inputs(x)
        y, ssm = selective_scan_step(
            ssm,
            x,
            dt,
            A_log,
            B,
            C,
            self.D,
            z,
            dt_bias=self.dt_proj.bias,
            state_offset=self._with_extra(tensor_of(self.injection.state_offset)),
            output_offset=tensor_of(self.injection.output_offset),
            source=source,
            into=into[1],
            log_A=True,
        )
        return self._project("out_proj", y)[0], conv, ssm


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, residual: Tensor, added: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The norm of the residual stream after a block's output is added, and that sum."""
        return add_rms_norm(residual, added, self.weight, self.eps, dtype)


class Block(nn.Module):
    """norm and mixer; the residual stream passes through."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = MambaMixer(config)

    def forward(
        self, residual: Tensor, added: Tensor | None, dtype: torch.dtype, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """The block's output, the residual stream that it is to be added to, and the mixer's states."""
        normed, residual = self.norm(residual, added, dtype)
        out, last = self.mixer(normed, lengths)
        return out, residual, last
