"""What every method is: a transformation that makes some parameters of a base model trainable.

A method's file holds one frozen dataclass: its fields are the options of its yaml, its ``apply`` puts tensors into
the model's slots or marks the model's own parameters as trained. ``adapter.attach`` does the rest, the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch

from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.instantiate import instantiate

LARGEST_COUNT = 65_536
"""Of ranks, tokens and states: more is a mistake, and would exhaust the memory."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method with its options.

    name: as on the command line.
    learning_rate: taken where conf/tuned holds none for the run.
    published: whether options and learning rates follow the official configs, or are ours.
    """

    name: str
    learning_rate: float
    published: bool

    @property
    def identity_at_start(self) -> bool:
        """Whether the freshly attached model gives the base model's logits exactly."""
        return True

    @property
    def sets_initial_state(self) -> bool:
        """Whether the scan starts from a state that the method sets, which backend=mamba_ssm cannot do."""
        return False

    @property
    def moves_from_step_2(self) -> tuple[str, ...]:
        """Name patterns of parameters that get no gradient in the first step, because a partner starts at zero."""
        return ()

    @property
    def unmergeable_reason(self) -> str | None:
        """Why the adapter cannot be merged into plain weights; None where it can (methods/merge.py)."""
        return "what it trains is no weight of the model"

    def __post_init__(self) -> None:
        self.require("learning_rate", float, lambda rate: 0 < rate < 1e6, "a positive number")

    @property
    def alone_reason(self) -> str | None:
        """Why runs that differ in seed and numbers cannot train together (training/members.py); None where they can:
        where the blocks read every trained tensor through operations that take members' (ops/member_rows.py), and what
        is kept beside the parameters does not depend on the seed."""
        return "the method does not say that its parameters may be those of members"

    @property
    def may_stay_fixed(self) -> tuple[str, ...]:
        """Name patterns of parameters that may keep their values: their gradient is zero, or nearly."""
        return ()

    later_options: ClassVar[tuple[str, ...]] = ()
    """Options that older runs do not have: left out of ``options`` where they are None, so that those keep their
    names."""

    def check_family(self, family: type[ModelConfig]) -> None:  # noqa: B027  most methods have no such option
        """Raise UserError for an option that models of the family lack."""

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options, without what all methods share."""
        shared = {field.name for field in fields(Method)}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in shared}
        return {name: value for name, value in own.items() if name not in self.later_options or value is not None}

    @abstractmethod
    def apply(self, model: Mamba, generator: torch.Generator) -> dict[str, float] | None:
        """Fill the model's slots, or set ``requires_grad`` on its own parameters.

        generator: of the initial values, on the CPU. Gives factors on the run's learning rate, by the parameters'
        names, where not all train at the same.
        """

    @abstractmethod
    def num_trainable_params(self, config: ModelConfig) -> int:
        """Number of trained scalars in closed form; ``attach`` checks it."""

    @property
    def num_warmup_steps(self) -> int:
        """Steps before the training, whose outcome decides what it trains."""
        return 0

    warmup_only: ClassVar[tuple[str, ...]] = ()
    """Name patterns of what the warm-up alone trains."""

    def finish_warmup(self, model: Mamba) -> None:  # noqa: B027  most methods have none
        """Choose what is trained from now on, in place; afterwards all that was trained is put back to its start."""

    def wrong_values(self, model: Mamba) -> str | None:
        """What is wrong with the fixed tensors that were loaded into the model; None where nothing is."""
        return None

    def parts_in_words(self, config: ModelConfig, learning_rate: float) -> str | None:
        """What each part of a method that has several trains, and at which rate; None for the others."""
        return None

    def num_fixed_values(self, config: ModelConfig) -> int:
        """Number of scalars in what the adapter keeps beside its parameters (``Adapter.fixed``), in closed form."""
        return 0

    def require(self, option: str, kind: type, valid: Callable[[Any], bool], wanted: str) -> None:
        """Raise UserError unless the option has its type and range, which Hydra does not check."""
        value = getattr(self, option)
        kinds = (int, float) if kind is float else (kind,)
        if not isinstance(value, kinds) or isinstance(value, bool) or not valid(value):
            raise UserError(f"method.{option} must be {wanted}, got {value!r}")

    def require_count(self, option: str) -> None:
        """Raise UserError unless the option is a whole number from 1 to LARGEST_COUNT."""
        self.require(
            option, int, lambda value: 1 <= value <= LARGEST_COUNT, f"a whole number from 1 to {LARGEST_COUNT}"
        )


def load_method(section: dict[str, Any]) -> Method:
    """The method that the ``method`` section of a configuration or an adapter names. Raises UserError."""
    return instantiate(section, Method, "ssm_tune.methods")  # type: ignore[type-abstract]
