"""A block: a norm and a mixer beside the residual stream.

A mixer is a module with

    forward(hidden (B, L, d_model), lengths (B,) or None) -> output, and with lengths the states after each row's end
    step(hidden (R, d_model), conv, ssm, source, into)    -> output and the states after one position
    injection                                             the slots that methods fill (adapter_slots.py)
    selective_recompute                                   what it registers tensors with (selective_recompute.py)

and a second kind of mixer is chosen in ``Block``, by its configuration, and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssm_tune.models.config import MambaConfig
from ssm_tune.models.layers import RMSNorm
from ssm_tune.models.mamba1 import MambaMixer, States


class Block(nn.Module):
    """Norm and mixer; the residual stream passes through."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = MambaMixer(config)

    def forward(
        self, residual: Tensor, added: Tensor | None, dtype: torch.dtype, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, States | None]:
        """The block's output in ``dtype``, the residual stream that it is to be added to, and the mixer's states.

        residual: (B, L, d_model), the stream; added: the output of the block before, in ``dtype``, not yet added to it.
        """
        normed, residual = self.norm(residual, added, dtype)
        out, states = self.mixer(normed, lengths)
        return out, residual, states
