"""What a mixer of any family has to offer: the part of a block between its norm and the residual stream.

    B batch   L length   R rows being decoded   M virtual tokens of a prefix   d_model width of the residual stream
    D channels of a block    N states a channel    K width of the convolution

The rest of the model, methods, training and generation use what ``Mixer`` declares, and know no family.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_tune.models.adapter_slots import AdapterSlots, ExtraStates, slot_value
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.layers import Projection
from ssm_tune.models.selective_recompute import SelectiveRecompute
from ssm_tune.ops.fused_linear import linear_with_input
from ssm_tune.ops.member_rows import by_row

SizesT = TypeVar("SizesT", bound=ModelConfig)
States = tuple[Tensor, Tensor]
"""The convolution's last inputs (rows, K-1, channels), oldest first, and the scan's state (rows, D, N)."""


class Mixer(nn.Module, Generic[SizesT]):
    """The block without norm and residual.

    A family adds ``scan_sequence``, ``step``, ``new_states``, ``merge_states`` and ``initialize``, and projections and
    a convolution ``conv1d``; its sizes are a ``ModelConfig``.
    """

    projection_of_B_and_C: ClassVar[str]
    most_states: ClassVar[int]
    """States a channel that the CUDA kernels of the scan take."""

    in_proj: Projection
    out_proj: Projection
    conv1d: nn.Conv1d

    def __init__(self, config: SizesT) -> None:
        super().__init__()
        self.config = config
        self.injection = AdapterSlots()
        self.selective_recompute = SelectiveRecompute()

    @abstractmethod
    def scan_sequence(
        self, hidden: Tensor, conv: Tensor | None, ssm: Tensor | None, lengths: Tensor | None, keep: bool
    ) -> tuple[Tensor, States | None]:
        """(B, L, d_model) from the two states before it -> the same shape, and, where they are to be kept, the states
        after each row's last real position.

        lengths: (B,) real positions of right-padded rows.
        """

    @abstractmethod
    def step(
        self,
        hidden: Tensor,
        conv: Tensor,
        ssm: Tensor,
        source: Tensor | None = None,
        into: States | tuple[None, None] = (None, None),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One position: (R, d_model) and the two states, which it may change -> output and the states after it.

        source: (R,) int64, the row of the states that each row continues from; below 0: any. With it ``into``, other
            memory, takes the states after the position.
        """

    @abstractmethod
    def new_states(self, count: int, a_init: str | None, generator: torch.Generator) -> ExtraStates:
        """``count`` further states a channel for the slot ``extra_states``, whose output is zero at first.

        a_init: where the family has A for each state, what its new entries start as.
        """

    @abstractmethod
    def merge_states(self, weights: dict[str, Tensor]) -> None:
        """Widen this mixer's own weights, by their names in it, by the block's extra states."""

    @abstractmethod
    def initialize(self, generator: torch.Generator) -> None:
        """Draw new weights, as the original implementation starts before pretraining."""

    def forward(self, hidden: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, States | None]:
        """(B, L, d_model) -> the same shape, and, with lengths, the two states after each row's last real position.

        lengths: (B,) real positions of right-padded rows; the states ignore what follows them.
        """
        conv, ssm = self._initial_states(hidden.shape[0])
        return self.scan_sequence(hidden, conv, ssm, lengths, keep=lengths is not None)

    def slots_conflict(self) -> str | None:
        """Which two slots of the block are filled of which one would go unread; None where all are read."""
        slots, projection = self.injection, self.projection_of_B_and_C
        if slots.extra_states is not None and projection in slots.updates:
            return f"extra states and an update of {projection}, which both make B and C"
        if slots.prefix is not None and slots.initial_state is not None:
            return "a prefix and an initial state, which both set the state before the first position"
        return None

    def _initial_states(self, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """The convolution's and the scan's state before the first position, where a method sets them."""
        virtual = slot_value(self.injection.prefix)
        if virtual is None:
            return None, slot_value(self.injection.initial_state)
        virtual = virtual.to(self.in_proj.weight.dtype)
        tokens = virtual.unsqueeze(0) if virtual.dim() == 2 else virtual  # of each member: a row each
        _, states = self.scan_sequence(tokens, None, None, None, keep=True)
        assert states is not None
        conv, ssm = (by_row(state, 2, rows) for state in states)
        return conv, ssm

    def _project(self, name: str, input: Tensor) -> tuple[Tensor, Tensor]:
        """A projection's output, and its input for its other reader."""
        out, input = linear_with_input(input, getattr(self, name).weight.to(input.dtype))
        return self._updated(name, input, out)

    def _updated(self, name: str, input: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """A projection's output with what a method adds, and its input for its other reader."""
        if name not in self.injection.updates:
            return out, input
        updated, same = self.injection.updates[name](input, out, getattr(self, name).weight)
        return updated, same

    def _with_extra(self, state: Tensor | None) -> Tensor | None:
        """A (..., D, N) tensor widened by zeros for extra states, unless it has them already."""
        extra = self.injection.extra_states
        if state is None or extra is None or state.shape[-1] != self.config.d_state:
            return state
        return F.pad(state, (0, extra.count))

    def _last_inputs(self, x: Tensor, before: Tensor | None, lengths: Tensor | None) -> Tensor:
        """The last K-1 inputs of the convolution up to each row's end, (B, K-1, channels)."""
        rows, length, channels = x.shape
        width = self.config.d_conv - 1
        if before is None:
            before = x.new_zeros(rows, width, channels)
        padded = torch.cat([before.to(x.dtype), x], dim=1)
        if lengths is None:
            return padded[:, length:]
        index = lengths.unsqueeze(1) + torch.arange(width, device=x.device)
        return padded.gather(1, index.unsqueeze(2).expand(-1, -1, channels))
