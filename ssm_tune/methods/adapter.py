"""A method attached to a model: what it trains there, saved and loaded; and how it comes to be attached."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ssm_tune.methods.adapter_files import write_adapter
from ssm_tune.methods.base import Method
from ssm_tune.models.config import param_dtype
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.swapped import swapped_parameters
from ssm_tune.utils.errors import UserError


class Adapter:
    """A method attached to a model.

    fixed: what it keeps beside its parameters and a saved adapter needs, by the names in the model: the persistent
    buffers that it has put into the slots.

    rate_factors: on the learning rate, of those parameters that do not train at the run's own. warmup_only: what is
    trained in the method's warm-up and put back after it; no part of a saved adapter.

    A member's parameters (``attach_members``) are not in the model, which computes with them inside ``active``.
    """

    def __init__(
        self,
        method: Method,
        model: Mamba,
        parameters: dict[str, nn.Parameter] | None = None,
        rate_factors: dict[str, float] | None = None,
    ) -> None:
        self.method, self.model, self.rate_factors = method, model, rate_factors or {}
        if parameters is None:
            parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.warmup_only = {name: x for name, x in parameters.items() if self.matches(name, method.warmup_only)}
        self._parameters = {name: x for name, x in parameters.items() if name not in self.warmup_only}
        state = model.state_dict(keep_vars=True)  # without the buffers that are not persistent
        self.fixed: dict[str, Tensor] = {name: x for name, x in state.items() if not isinstance(x, nn.Parameter)}

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the method trains, as an optimizer takes it."""
        return iter(self._parameters.values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``parameters`` with their names in the model."""
        return iter(self._parameters.items())

    @property
    def optimized(self) -> dict[str, nn.Parameter]:
        """What a run's optimizer gets: the parameters, and those that a warm-up alone trains."""
        return {**self._parameters, **self.warmup_only}

    @property
    def rate_groups(self) -> dict[float, list[str]]:
        """The names in ``optimized``, in their order, by the factors on their learning rates."""
        found: dict[float, list[str]] = {}
        for name in self.optimized:
            found.setdefault(self.rate_factors.get(name, 1.0), []).append(name)
        return found

    def active(self) -> AbstractContextManager[None]:
        """Inside it the model computes with these parameters."""
        return swapped_parameters(self.model, self._parameters)

    @property
    def trainable(self) -> int:
        """Number of trained scalars."""
        return sum(parameter.numel() for parameter in self.parameters())

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, of how many in all, in peft's words."""
        total = sum(parameter.numel() for parameter in self.model.parameters())
        share = 100 * self.trainable / total
        print(f"trainable params: {self.trainable:,d} || all params: {total:,d} || trainable%: {share:.4f}")

    def matches(self, name: str, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and fixed tensors, which are what a saved adapter holds (not copies)."""
        return {**self._parameters, **self.fixed}

    def tensors(self) -> dict[str, Tensor]:
        """A detached copy of the state, on the CPU."""
        # clone even where they lie on the CPU already: a later training step must not change the copy
        return {name: value.detach().cpu().clone() for name, value in self.state.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor], source: str = "the adapter") -> None:
        """Copy saved tensors into the state. source: what error messages call the tensors.

        Raises UserError where names, shapes or dtypes do not fit this method and model.
        """
        state = self.state | {name: own for name, own in self.warmup_only.items() if name in tensors}
        missing = sorted(state.keys() - tensors.keys())
        unknown = sorted(tensors.keys() - state.keys())
        if missing or unknown:
            what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which {self.method.name} has not"
            raise UserError(f"{source} does not fit the model: it {what}")
        for name, own in state.items():
            given = tensors[name]
            if given.shape != own.shape:
                raise UserError(
                    f"{source} does not fit the model: {name} has shape {tuple(given.shape)}, "
                    f"expected {tuple(own.shape)}"
                )
            if given.is_floating_point() != own.is_floating_point():
                wanted = "floating point" if own.is_floating_point() else "whole numbers"
                raise UserError(f"{source} does not fit the model: {name} holds {given.dtype}, not {wanted}")
            own.copy_(given)
        if wrong := self.method.wrong_values(self.model):
            raise UserError(f"{source} does not fit the model: {wrong}")

    def save(self, folder: Path | str, about: dict[str, Any] | None = None) -> None:
        """Write ``adapter.safetensors`` and ``adapter.json``: method, options, and ``about``, as of the model.

        Raises UserError where a file cannot be written.
        """
        kind = type(self.method)
        target = {"_target_": f"{kind.__module__}.{kind.__qualname__}"}
        description = {"method": target | dataclasses.asdict(self.method), **(about or {})}
        write_adapter(Path(folder), description, safetensors.torch.save(self.tensors()))


def attach(model: Mamba, method: Method, *, seed: int = 42, dtype: torch.dtype | None = None) -> Adapter:
    """Freeze the model, apply the method to it, and give the adapter.

    seed: of the adapter's initial values. dtype: of the trained tensors (A_log, D and dt_bias stay in float32); that of
    the model where None. Activations keep the model's dtype, and added modules take the model's mode (training or
    evaluation).

    Raises:
        UserError: the model has a method already, or the method has an option that the model's family lacks.
    """
    if getattr(model, "adapter", None) is not None:
        raise UserError("the model carries a method already: load a fresh one to attach another")
    method.check_family(type(model.config))
    model.set_compute_dtype(model.dtype)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    adapter = _applied(model, method, seed, dtype)
    expected = method.num_trainable_params(model.config)
    if adapter.trainable != expected:
        raise RuntimeError(f"{method.name} trains {adapter.trainable} parameters where {expected} are expected")
    object.__setattr__(model, "adapter", adapter)  # not a submodule: the model owns the parameters already
    return adapter


def attach_members(
    model: Mamba, method: Method, seeds: Sequence[int], dtype: torch.dtype | None = None
) -> list[Adapter]:
    """One adapter for each seed, as ``attach`` gives it, all of one model, which computes with one of them or with all.

    Raises UserError as ``attach`` does, and for a method that has an ``alone_reason``.
    """
    if method.alone_reason is not None:
        raise UserError(f"method={method.name} cannot be trained together: {method.alone_reason}")
    found = [attach(model, method, seed=seeds[0], dtype=dtype)]
    for seed in seeds[1:]:
        model.clear_slots()
        found.append(_applied(model, method, seed, dtype))
    # copies: what the model holds stays as it is, for a method may train parameters that the model has without it
    copies = [{name: nn.Parameter(value.detach().clone()) for name, value in one.named_parameters()} for one in found]
    return [Adapter(method, model, parameters, found[0].rate_factors) for parameters in copies]


def _applied(model: Mamba, method: Method, seed: int, dtype: torch.dtype | None) -> Adapter:
    """The method's trained parameters, as the seed draws them, in the model and in their dtypes."""
    factors = method.apply(model, torch.Generator().manual_seed(seed))
    model.train(model.training)
    adapter = Adapter(method, model, rate_factors=factors)
    for name, tensor in (adapter.state | adapter.warmup_only).items():
        target = param_dtype(name, dtype or model.dtype) if tensor.is_floating_point() else tensor.dtype
        tensor.data = tensor.data.to(device=model.device, dtype=target)
    return adapter
