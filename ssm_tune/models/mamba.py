"""A language model of Mamba blocks (block.py), with the parameter names of the published checkpoints.

B batch   L length   P virtual tokens before the input   R rows being decoded   V vocabulary (padded)
d_model width of the residual stream   D channels of a block   N states a channel   K width of the convolution
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssm_tune.models.adapter_slots import AdapterSlots, Randomness, slot_value
from ssm_tune.models.block import Block
from ssm_tune.models.config import ModelConfig, param_dtype
from ssm_tune.models.layers import Projection, RMSNorm
from ssm_tune.models.mixer import Mixer
from ssm_tune.models.selective_recompute import SelectiveRecompute
from ssm_tune.ops.member_rows import by_row
from ssm_tune.ops.selective_scan import state_dtype


@dataclass
class Cache:
    """What decoding carries from token to token, for R rows.

    conv: per layer, the convolution's last K-1 inputs, oldest first, (R, K-1, channels), in the model's dtype.
    ssm: per layer, the state (R, D, N), in the state's dtype.
    """

    conv: list[Tensor]
    ssm: list[Tensor]

    @property
    def rows(self) -> int:
        return self.ssm[0].shape[0]

    @property
    def row_bytes(self) -> int:
        return sum(state[0].numel() * state.element_size() for state in (*self.conv, *self.ssm))

    def select(self, index: Tensor) -> None:
        """Make the rows ``index`` (int64) of the present ones, in that order; rows may repeat or go."""
        self.conv = [state.index_select(0, index) for state in self.conv]
        self.ssm = [state.index_select(0, index) for state in self.ssm]

    def blank(self, rows: int) -> Cache:
        """A cache of ``rows`` rows, all zeros, for the same model."""
        return Cache(*([x.new_zeros(rows, *x.shape[1:]) for x in states] for states in (self.conv, self.ssm)))

    def insert(self, rows: Tensor, other: Cache, others: Tensor) -> None:
        """Copy the rows ``others`` of another cache to the rows ``rows`` of this one (both int64), in place."""
        for mine, theirs in zip((*self.conv, *self.ssm), (*other.conv, *other.ssm), strict=True):
            mine[rows] = theirs[others]


def recomputed_blocks(layers: int, number: int) -> frozenset[int]:
    """Which ``number`` of a model's ``layers`` blocks to recompute: those that lower the peak of memory most.

    Memory is fullest as the backward begins, with the last block. What earlier blocks compute again comes when those
    behind them have let go of theirs, and adds nothing to that peak; what the last one does stands beside all that the
    others keep, so it comes last. The first comes just before it: its input has no gradient (unless a method trains
    it), so that it keeps less than the others. Of these every other one comes first: the residual stream before a
    block is kept for the block before it anyway, if that one is not recomputed.
    """
    last = layers - 1
    return frozenset([*range(2, last, 2), *reversed(range(1, last, 2)), 0, last][:number])


class Backbone(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)

    @property
    def blocks(self) -> list[Block]:
        return list(self.layers)  # type: ignore[arg-type]


class Mamba(nn.Module):
    """A language model of either family. ``prompt`` is the one slot that belongs to the whole model: virtual tokens
    (P, d_model) before the input, whose outputs are dropped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = Projection(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight
        self.prompt: nn.Module | None = None
        self.randomness = Randomness()
        self.selective_recompute = SelectiveRecompute()
        for mixer in self.mixers:
            mixer.selective_recompute = self.selective_recompute

    @property
    def mixers(self) -> list[Mixer[Any]]:
        return [block.mixer for block in self.backbone.blocks]

    @property
    def device(self) -> torch.device:
        return self.backbone.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations: that of the projections, or what ``set_compute_dtype`` set."""
        return self._compute_dtype or self.mixers[0].in_proj.weight.dtype

    recompute: int = 0
    """The number of blocks of which a backward keeps the inputs alone and computes the activations again."""
    recompute_selective: int = 0
    """The number of other blocks, at most, of which a backward computes the cheap activations again
    (selective_recompute.py)."""
    _compute_dtype: torch.dtype | None = None
    checkpoint_hash: str | None = None
    """sha256 of the tensors that the model was loaded from, in their own dtypes; None for one that was not."""

    def cast_params(self, dtype: torch.dtype) -> None:
        """Cast the parameters to ``dtype``, but those that ``param_dtype`` keeps wider to that."""
        for name, parameter in self.named_parameters():
            parameter.data = parameter.data.to(param_dtype(name, dtype))

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Compute activations in ``dtype``, even where trained weights are kept in a wider one."""
        self._compute_dtype = dtype

    def clear_slots(self) -> None:
        """Empty all adapter slots. Parameters of the model's own that a method trains stay as they are."""
        self.prompt = None
        for mixer in self.mixers:
            mixer.injection = AdapterSlots().train(self.training)

    def _stream(self, input_ids: Tensor) -> tuple[Tensor, int]:
        """The residual stream's first value, (B, P + L, d_model), and P."""
        residual = F.embedding(input_ids, self.backbone.embedding.weight).to(self.residual_dtype)
        virtual = slot_value(self.prompt)
        if virtual is None:
            return residual, 0
        rows = by_row(virtual.to(residual.dtype), 2, input_ids.shape[0]).expand(input_ids.shape[0], -1, -1)
        return torch.cat([rows, residual], dim=1), virtual.shape[-2]

    @property
    def residual_dtype(self) -> torch.dtype:
        """Dtype of the stream that runs past the blocks."""
        return state_dtype(self.dtype) if self.config.residual_in_fp32 else self.dtype

    def hidden(self, input_ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, L, d_model) after the final norm; right padding changes nothing before it."""
        return self._hidden(input_ids, None)[0]

    def _hidden(self, input_ids: Tensor, lengths: Tensor | None, keep: bool = True) -> tuple[Tensor, Cache]:
        residual, virtual = self._stream(input_ids)
        if lengths is not None:
            lengths = lengths + virtual
        cache, out = Cache([], []), None
        layers, differentiable = self.config.n_layer, torch.is_grad_enabled()
        recomputed = recomputed_blocks(layers, self.recompute if differentiable else 0)
        others = [number for number in range(layers) if number not in recomputed]
        selective = others[: self.recompute_selective if differentiable else 0]
        for number, block in enumerate(self.backbone.blocks):
            if number in recomputed:
                out, residual, last = checkpoint(
                    block, residual, out, self.dtype, lengths, use_reentrant=False, preserve_rng_state=False
                )
            else:
                with self.selective_recompute.active() if number in selective else nullcontext():
                    out, residual, last = block(residual, out, self.dtype, lengths)
            if last is not None and keep:
                cache.conv.append(last[0])
                cache.ssm.append(last[1])
        assert out is not None
        return self.backbone.norm_f(residual[:, virtual:], out[:, virtual:], self.dtype)[0], cache

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> (..., V)."""
        out: Tensor = self.lm_head(hidden)
        return out

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) int64 -> logits (B, L, V); position t predicts token t + 1."""
        return self.logits(self.hidden(input_ids))

    def prefill(self, input_ids: Tensor, lengths: Tensor | None = None, keep: bool = True) -> tuple[Tensor, Cache]:
        """Read right-padded prompts; give the logits (B, V) at each row's last token and the cache after it.

        input_ids: (B, L) int64; lengths: (B,) int64, at least 1 each (all L where absent). Without ``keep``, for many
        prompts that nothing follows, the cache is empty.
        """
        rows, length = input_ids.shape
        if lengths is None:
            lengths = torch.full((rows,), length, device=input_ids.device)
        hidden, cache = self._hidden(input_ids, lengths, keep)
        last = hidden[torch.arange(rows, device=hidden.device), lengths - 1]
        return self.logits(last), cache

    def step(self, tokens: Tensor, cache: Cache, source: Tensor | None = None, into: Cache | None = None) -> Tensor:
        """Read one token a row, (R,) int64; give the logits (R, V) after it. The cache moves on in place.

        With ``source`` (R,) int64 row r continues row source[r] of ``cache``, and its states are written to row r of
        ``into``, other memory, in place; the results of rows whose source is below 0 do not matter.
        """
        residual = F.embedding(tokens, self.backbone.embedding.weight).to(self.residual_dtype)
        out = None
        for index, block in enumerate(self.backbone.blocks):
            normed, residual = block.norm(residual, out, self.dtype)
            states = cache.conv[index], cache.ssm[index]
            if into is None:
                out, cache.conv[index], cache.ssm[index] = block.mixer.step(normed, *states)
            else:
                out, _, _ = block.mixer.step(normed, *states, source, (into.conv[index], into.ssm[index]))
        return self.logits(self.backbone.norm_f(residual, out, self.dtype)[0])
