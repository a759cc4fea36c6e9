"""What a block may receive from a method: slots, all empty in a base model.

The model reads the slots and never knows which method filled them; a method fills slots and never edits the
model's code. Letters as in ``ops``; d_model is the width of the residual stream, K the convolution's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ssm_tune.ops.keyed_dropout import row_bits


class LearnedTensor(nn.Module):
    """One trained tensor. Called with no arguments, it gives the tensor."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self) -> Tensor:
        return self.value


class LowRank(nn.Module):
    """A (rows, columns) tensor kept as ``scale`` times the product U V of rank r. Called with no arguments."""

    def __init__(self, U: Tensor, V: Tensor, scale: float | None = None) -> None:
        super().__init__()
        self.U, self.V, self.scale = nn.Parameter(U), nn.Parameter(V), scale

    def forward(self) -> Tensor:
        product = self.U @ self.V
        return product if self.scale is None else self.scale * product


class Randomness:
    """The random bits of methods that draw in training; one for a whole model.

    The trainer names the rows of the batch at hand by keys, so that a row draws the same bits wherever it is computed,
    and with whatever other rows. Without keys each use draws its own from PyTorch's generator.
    """

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._bits: Tensor | None = None

    @contextmanager
    def of(self, keys: Tensor) -> Iterator[None]:
        """Within it rows have ``keys``, (B,) int64, in forward and backward alike."""
        self._keys = keys
        try:
            yield
        finally:
            self._keys = self._bits = None

    def rows(self, x: Tensor) -> Tensor:
        """Random bits for each position of an ``x`` (B, L, ...), (B, L) int32, for ``keyed_dropout``."""
        if self._keys is None:
            return torch.randint(-(2**31), 2**31, x.shape[:2], dtype=torch.int32, device=x.device)
        if self._bits is None:
            self._bits = row_bits(self._keys, x.shape[1])
        return self._bits


class ExtraStates(nn.Module, ABC):
    """Further states a channel beside those of the model; what they are made of is the mixer's."""

    @property
    @abstractmethod
    def count(self) -> int:
        """States a channel."""


class ParameterUpdate(nn.Module, ABC):
    """A change of one of the block's own parameters, which the block computes with in the parameter's place."""

    @abstractmethod
    def forward(self, own: Tensor) -> Tensor:
        """The changed parameter, for the block's ``own``, in its shape and dtype."""


class ProjectionChange(nn.Module, ABC):
    """A change of a projection's output that a change of its weight would make, too."""

    @abstractmethod
    def forward(self, x: Tensor, out: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The changed output for the projection's input, output and weight (out, in); and x for its other reader."""

    @abstractmethod
    def merge(self, weight: Tensor) -> None:
        """Write the change into the weight (out, in) on the CPU, which is rounded once."""


class AdapterSlots(nn.Module):
    """The slots of one block. A mixer holds them as ``injection``, which the names in saved adapters contain.

    state_offset: -> (D, N), added to the state as it is read at every step, never stored in it.
    output_offset: -> (D,), added to the scan's output before its gate z.
    initial_state: -> (D, N), the state before the first position.
    prefix: -> (M, d_model), virtual tokens that run through the block before the sequence; their outputs are
        dropped, so they only set the convolution's and the scan's initial state.
    extra_states: further states. Beside them nothing may update the projection that makes B and C: both
        make its output.
    A_log_update: what the block takes for its A_log; of a Mamba-1 alone.
    updates: for a projection's name (in_proj, out_proj, ...) a ``ProjectionChange`` (ops/fused_linear.py says what the
        input's other reader is).
    """

    def __init__(self) -> None:
        super().__init__()
        self.state_offset: nn.Module | None = None
        self.output_offset: nn.Module | None = None
        self.initial_state: nn.Module | None = None
        self.prefix: nn.Module | None = None
        self.extra_states: ExtraStates | None = None
        self.A_log_update: ParameterUpdate | None = None
        self.updates = nn.ModuleDict()


def slot_value(slot: nn.Module | None) -> Tensor | None:
    """The tensor that a slot holds, or None for an empty slot."""
    if slot is None:
        return None
    value = slot()
    assert isinstance(value, torch.Tensor)
    return value
