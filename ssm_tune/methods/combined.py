"""Several methods on one model, each with slots or parameters of its own and its own learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ssm_tune.config.groups import filled_part, method_section
from ssm_tune.methods.base import Method, load_method
from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Combined(Method):
    """The methods that ``parts`` names, put on the model in this order.

    A part is ``{method: NAME, rate: FACTOR, ...}`` with the method's options; its parameters train at the run's
    learning rate times FACTOR. A configuration fills in the options that are left out.
    """

    parts: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.parts, list) or len(self.parts) < 2:
            raise UserError(f"method.parts must be a list of at least two methods, got {self.parts!r}")
        full = [filled_part(part) for part in self.parts]
        for part in full:
            rate = part["rate"]
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e6:
                raise UserError(f"method.parts: the rate of {part['method']} must be a positive number, got {rate!r}")
        object.__setattr__(self, "parts", full)
        object.__setattr__(self, "_methods", [_method_of(part) for part in full])

    @property
    def methods(self) -> list[Method]:
        """The parts' own."""
        found: list[Method] = self._methods  # type: ignore[attr-defined]
        return found

    def check_family(self, family: type[ModelConfig]) -> None:
        for method in self.methods:
            method.check_family(family)

    def apply(self, model: Mamba, generator: torch.Generator) -> dict[str, float]:
        """Raises UserError where two parts claim one slot or parameter, or a block does not read both."""
        owners: dict[str, str] = {}
        factors: dict[str, float] = {}
        for method, part in zip(self.methods, self.parts, strict=True):
            before = _slots(model)
            model.requires_grad_(False)
            method.apply(model, generator)
            after = _slots(model)
            claimed = [name for name, module in after.items() if before.get(name) is not module]
            claimed += [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            for name in claimed:
                if name in owners:
                    raise UserError(f"method.parts: {owners[name]} and {method.name} both claim {_slot_of(name)}")
            owners |= dict.fromkeys(claimed, method.name)
            factors |= dict.fromkeys(claimed, float(part["rate"]))
        if conflict := next(filter(None, (mixer.slots_conflict() for mixer in model.mixers)), None):
            raise UserError(f"method.parts: a block does not take {conflict}")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in owners)
        return {name: factor for name, factor in factors.items() if factor != 1}

    def num_trainable_params(self, config: ModelConfig) -> int:
        return sum(method.num_trainable_params(config) for method in self.methods)

    def num_fixed_values(self, config: ModelConfig) -> int:
        return sum(method.num_fixed_values(config) for method in self.methods)

    def parts_in_words(self, config: ModelConfig, learning_rate: float) -> str:
        return ", ".join(
            f"{method.name} {method.num_trainable_params(config):,} at {learning_rate * part['rate']:g}"
            for method, part in zip(self.methods, self.parts, strict=True)
        )

    @property
    def identity_at_start(self) -> bool:
        return all(method.identity_at_start for method in self.methods)

    @property
    def sets_initial_state(self) -> bool:
        return any(method.sets_initial_state for method in self.methods)

    @property
    def moves_from_step_2(self) -> tuple[str, ...]:
        return tuple(pattern for method in self.methods for pattern in method.moves_from_step_2)

    @property
    def may_stay_fixed(self) -> tuple[str, ...]:
        return tuple(pattern for method in self.methods for pattern in method.may_stay_fixed)

    @property
    def unmergeable_reason(self) -> str | None:
        return _first_reason((method.name, method.unmergeable_reason) for method in self.methods)

    @property
    def alone_reason(self) -> str | None:
        return _first_reason((method.name, method.alone_reason) for method in self.methods)


def _method_of(part: dict[str, Any]) -> Method:
    options = {key: value for key, value in part.items() if key not in ("method", "rate")}
    try:
        return load_method(method_section(part["method"], options))
    except UserError as error:
        raise UserError(f"method.parts: {part['method']}: {error}") from error


def _slots(model: Mamba) -> dict[str, nn.Module | None]:
    """What lies in each slot, by the names of the modules."""
    found: dict[str, nn.Module | None] = {"prompt": model.prompt}
    for index, mixer in enumerate(model.mixers):
        within = f"backbone.layers.{index}.mixer.injection."
        found |= {within + name: module for name, module in mixer.injection.named_children() if name != "updates"}
        found |= {f"{within}updates.{name}": module for name, module in mixer.injection.updates.items()}
    return {name: module for name, module in found.items() if module is not None}


def _slot_of(name: str) -> str:
    """A slot or parameter as messages name it: without the layer."""
    return name.partition(".mixer.")[2].removeprefix("injection.") or name


def _first_reason(reasons: Any) -> str | None:
    return next((f"of {name}, {reason}" for name, reason in reasons if reason is not None), None)
