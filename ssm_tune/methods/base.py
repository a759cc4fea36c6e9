"""What every method is: a transformation that makes some parameters of a frozen model trainable.

A method's file holds one frozen dataclass: its fields are the options of its yaml, its ``fill`` puts tensors into
the model's slots or marks the model's own parameters as trained. ``attach`` does the rest and is the same for all.
"""

from __future__ import annotations

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ssm_tune.models.config import MambaConfig, param_dtype
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, encode_json
from ssm_tune.utils.instantiate import instantiate

WEIGHTS, DESCRIPTION = "adapter.safetensors", "adapter.json"


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method with its options.

    name: as on the command line.
    learning_rate: taken where conf/tuned holds none for the cell.
    published: whether options and learning rates follow the official configs, or are ours.
    """

    name: str
    learning_rate: float
    published: bool

    identity_at_start: ClassVar[bool] = True
    """Whether the freshly attached model gives the frozen model's logits exactly."""
    moves_from_step_2: ClassVar[tuple[str, ...]] = ()
    """Name patterns of parameters that can only move from the second step on (a partner starts at zero)."""

    unmergeable_reason: ClassVar[str | None] = "what it trains is no weight of the model"
    """Why the tuned model has no equal in plain weights; None where it has one (methods/merge.py)."""

    def __post_init__(self) -> None:
        self.require("learning_rate", float, lambda rate: 0 < rate < 1e6, "a positive number")

    @property
    def may_stay_fixed(self) -> tuple[str, ...]:
        """Name patterns of parameters that may stay where they are: their gradient is zero, or nearly."""
        return ()

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options, without what all methods share."""
        shared = {field.name for field in fields(Method)}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in shared}

    @abstractmethod
    def apply(self, model: Mamba, generator: torch.Generator) -> None:
        """Fill the model's slots, or set ``requires_grad`` on its own parameters."""

    @abstractmethod
    def num_trainable_params(self, config: MambaConfig) -> int:
        """Number of trained scalars in closed form; ``attach`` holds the model to it."""

    def require(self, option: str, kind: type, valid: Callable[[Any], bool], wanted: str) -> None:
        """Raise a UserError unless the option has its type and range. Hydra checks neither for us."""
        value = getattr(self, option)
        kinds = (int, float) if kind is float else (kind,)
        if not isinstance(value, kinds) or isinstance(value, bool) or not valid(value):
            raise UserError(f"method.{option} must be {wanted}, got {value!r}")

    def require_count(self, option: str) -> None:
        """Raise a UserError unless the option is a positive whole number."""
        self.require(option, int, lambda value: value >= 1, "a whole number of at least 1")


class Adapter:
    """A method attached to a model: the parameters that it trains, by their name in the model."""

    def __init__(self, method: Method, model: Mamba) -> None:
        self.method, self.model = method, model
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    @property
    def trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def matches(self, name: str, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    def tensors(self) -> dict[str, Tensor]:
        """A detached copy of the trained tensors, on the CPU."""
        # clone even where they lie on the CPU already: a later training step must not change the copy
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor], source: str = "the adapter") -> None:
        """Put saved tensors back. Raises UserError where names or shapes do not fit this method and model."""
        missing = sorted(self.parameters.keys() - tensors.keys())
        unknown = sorted(tensors.keys() - self.parameters.keys())
        if missing or unknown:
            what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which {self.method.name} has not"
            raise UserError(f"{source} does not fit the model: it {what}")
        for name, parameter in self.parameters.items():
            given = tensors[name]
            if given.shape != parameter.shape:
                raise UserError(
                    f"{source} does not fit the model: {name} has shape {tuple(given.shape)}, "
                    f"expected {tuple(parameter.shape)}"
                )
            parameter.copy_(given)

    def save(self, folder: Path | str, about: dict[str, Any] | None = None) -> None:
        """Write ``adapter.safetensors`` and ``adapter.json``: method, options and what ``about`` tells of the model.

        Raises UserError where a file cannot be written.
        """
        folder, kind = Path(folder), type(self.method)
        target = {"_target_": f"{kind.__module__}.{kind.__qualname__}"}
        description = {"method": target | dataclasses.asdict(self.method), **(about or {})}
        weights = safetensors.torch.save(self.tensors())
        atomic_write(folder / WEIGHTS, [weights])
        atomic_write(folder / DESCRIPTION, [encode_json(description, indent=2), b"\n"])


def attach(model: Mamba, method: Method, *, seed: int = 42, dtype: torch.dtype | None = None) -> Adapter:
    """Freeze the model, let the method fill it, and give the adapter.

    seed: of the adapter's initial values. dtype: of the trained tensors (A_log and D stay in float32); that of
    the model where None. Activations keep the model's dtype.

    Raises:
        UserError: another method is attached already, or the method finds nothing to train.
    """
    if getattr(model, "adapter", None) is not None:
        raise UserError("the model carries a method already: load a fresh one to attach another")
    model.set_compute_dtype(model.dtype)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    method.apply(model, generator)
    adapter = Adapter(method, model)
    for name, parameter in adapter.parameters.items():
        target = param_dtype(name, dtype or model.dtype)
        parameter.data = parameter.data.to(device=model.device, dtype=target)
    expected = method.num_trainable_params(model.config)
    if adapter.trainable != expected:
        raise RuntimeError(f"{method.name} trains {adapter.trainable} parameters where {expected} are expected")
    object.__setattr__(model, "adapter", adapter)  # not a submodule: the model owns the parameters already
    return adapter


def load_method(section: dict[str, Any]) -> Method:
    """The method that the ``method`` section of a configuration names by ``_target_``. Raises UserError."""
    return instantiate(section, Method)  # type: ignore[type-abstract]


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors that ``Adapter.save`` wrote. Raises UserError where a file is amiss."""
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no adapter: {name} is missing")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except (ValueError, OSError, SafetensorError) as error:
        raise UserError(f"the adapter in {folder} cannot be read: {error}") from error
    if not isinstance(description, dict) or "method" not in description:
        raise UserError(f"{folder / DESCRIPTION} is no adapter's description: it names no method")
    return description, tensors


def uniform(generator: torch.Generator, *shape: int, bound: float) -> Tensor:
    """U(-bound, bound) in float32."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def kaiming(generator: torch.Generator, rows: int, columns: int) -> Tensor:
    """What ``kaiming_uniform_(a=sqrt(5))`` draws for a (rows, columns) weight: U(-1/sqrt(columns), ...)."""
    return uniform(generator, rows, columns, bound=1 / math.sqrt(columns))
