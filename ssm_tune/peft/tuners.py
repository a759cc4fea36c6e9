"""The models that peft makes of a configuration: they find the recurrent mixers and put layers in their place."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from ssm_tune.peft.config import AdditionalScanConfig, InitialStateConfig, RecurrentConfig, StateOffsetConfig
from ssm_tune.peft.layers import AdditionalScanLayer, InitialStateLayer, StateOffsetLayer
from ssm_tune.peft.mixers import Mixer, describe, family_of
from ssm_tune.peft.recurrent_layer import RecurrentLayer


class RecurrentTuner(BaseTuner):
    """A model whose recurrent mixers carry adapters of one method."""

    tuner_layer_cls: type[RecurrentLayer]
    config_class: type[RecurrentConfig]
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # mixers are found by their class

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put a new adapter on the model's recurrent mixers.

        Raises ValueError or TypeError for a model or a layer that the method does not fit, before anything is changed.
        """
        config = self.peft_config[adapter_name]
        if not isinstance(config, self.config_class):
            raise TypeError(f"a {self.config_class.__name__} is needed here, got a {type(config).__name__}")
        # a copy, so that a configuration can be used for several models
        self.peft_config[adapter_name] = config = copy.copy(config)
        mixers = _chosen(config, model)
        found = _trained_on(list(mixers.values()))
        if config.trained_on is not None and config.trained_on != found:
            raise ValueError(
                f"the adapter {adapter_name!r} was trained on {_said(config.trained_on)}, this model has {_said(found)}"
            )
        config.trained_on = found
        self._mixers = mixers
        self.tuner_layer_cls.check_fit(list(mixers.values()), config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config

    def _check_target_module_exists(self, peft_config: Any, key: str) -> bool:  # type: ignore[override]
        return key in self._mixers

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, RecurrentLayer):
            target.add_adapter(adapter_name, peft_config)
            return
        layer = self.tuner_layer_cls(target)
        layer._active_adapter = self.active_adapters
        layer.add_adapter(adapter_name, peft_config)
        layer.train(target.training)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """peft's own expects a weight of every module that it puts back; a mixer has none of that name."""
        setattr(parent, child_name, new_module)

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Always raises ValueError, with the reason: see docs/peft.md."""
        raise ValueError(f"{self.prefix.rstrip('_')} cannot be merged into the model: {self._unmergeable()}")

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Raises ValueError, with the reason, for what has no equal in plain weights: see docs/peft.md."""
        raise ValueError(
            f"{self.prefix.rstrip('_')} cannot be merged into the model: {self._unmergeable()}. Keep the adapter "
            "beside the model; unload() gives the model without it"
        )

    def _unmergeable(self) -> str:
        return self.tuner_layer_cls.unmergeable

    def add_weighted_adapter(self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str) -> None:
        """Add an adapter that is the weighted sum of others: their offsets, or their initial states, add up.

        A sum of low-rank offsets is kept as a full h'. Raises ValueError for adapters that do not exist or do not add
        up, and for a name that is taken.
        """
        adapters, weights = list(adapters), [float(weight) for weight in weights]
        if adapter_name in self.peft_config:
            raise ValueError(f"there is an adapter {adapter_name!r} already")
        if not adapters or len(adapters) != len(weights):
            raise ValueError(f"as many weights as adapters are needed, got {len(weights)} and {len(adapters)}")
        for name in adapters:
            if name not in self.peft_config:
                raise ValueError(f"there is no adapter {name!r}; there are {', '.join(self.peft_config)}")
        wrappers = [module for module in self.modules() if isinstance(module, ModulesToSaveWrapper)]
        if any(name in wrapper.modules_to_save for wrapper in wrappers for name in adapters):
            raise ValueError("adapters with modules_to_save cannot be added up: these modules are no offsets")
        config = self._summed_config([self.peft_config[name] for name in adapters])
        self.peft_config[adapter_name] = config
        try:
            self.inject_adapter(self.model, adapter_name)
        except Exception:
            self.peft_config.pop(adapter_name)
            raise
        for layer in self.modules():
            if isinstance(layer, self.tuner_layer_cls) and adapter_name in layer._get_available_adapters():
                layer.set_weighted(adapter_name, adapters, weights)

    def _summed_config(self, configs: list[Any]) -> Any:
        """The configuration of a sum. Raises ValueError where the method's adapters do not add up."""
        config = copy.copy(configs[0])
        config.trained_on = config.modules_to_save = config.target_modules = None
        layers = {layer for one in configs for layer in one.trained_on["layers"]}
        config.layers_to_transform = sorted(layers)
        return config


class StateOffsetModel(RecurrentTuner):
    """A model with state offsets; see StateOffsetConfig."""

    prefix = "state_offset_"
    tuner_layer_cls = StateOffsetLayer
    config_class = StateOffsetConfig

    def _summed_config(self, configs: list[StateOffsetConfig]) -> StateOffsetConfig:
        if len({config.offset for config in configs}) > 1:
            raise ValueError("an offset beside the state (h) and one beside the output (y) do not add up")
        config = super()._summed_config(configs)
        config.rank = config.alpha = None
        return config


class InitialStateModel(RecurrentTuner):
    """A model whose scans start from learned states; see InitialStateConfig."""

    prefix = "initial_state_"
    tuner_layer_cls = InitialStateLayer
    config_class = InitialStateConfig


class AdditionalScanModel(RecurrentTuner):
    """A model with further states; see AdditionalScanConfig."""

    prefix = "additional_scan_"
    tuner_layer_cls = AdditionalScanLayer
    config_class = AdditionalScanConfig

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """The model with the active adapters' states as its own, and a larger ``config.state_size``.

        Raises ValueError for a model whose mixers cannot hold them: see docs/peft.md.
        """
        if adapter_names is not None:
            self.set_adapter(adapter_names)
        layers = [module for module in self.model.modules() if isinstance(module, AdditionalScanLayer)]
        whole = len(layers) == self.model.config.num_hidden_layers
        if not whole or not all(layer.mergeable and len(layer.active) == len(self.active_adapters) for layer in layers):
            return super().merge_and_unload()
        for layer in layers:
            layer.merge()
        model: Any = self.unload()
        model.config.state_size = layers[0].base_layer.ssm_state_size
        return model

    def _summed_config(self, configs: list[AdditionalScanConfig]) -> AdditionalScanConfig:
        raise ValueError(
            "additional_scan adapters do not add up: each has states of its own; "
            "set_adapter(['a', 'b']) of the base tuner runs several side by side"
        )


def _chosen(config: RecurrentConfig, model: nn.Module) -> dict[str, Mixer]:
    """The recurrent mixers that a configuration names, by their module names, in order.

    Raises ValueError where the model has none, or the configuration names what is none.
    """
    found = {
        name: module.mixer if isinstance(module, RecurrentLayer) else describe(module)
        for name, module in model.named_modules()
        if (isinstance(module, RecurrentLayer) or family_of(module) is not None) and not name.endswith(".base_layer")
    }
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no recurrent layer that ssm_tune.peft knows; docs/peft.md lists the models"
        )
    layers = sorted({mixer.layer for mixer in found.values()})
    chosen = {name: mixer for name, mixer in found.items() if _targeted(config.target_modules, name)}
    if not chosen:
        raise ValueError(
            f"target_modules={config.target_modules!r} names no recurrent mixer; this model's are {', '.join(found)}"
        )
    if config.layers_to_transform is not None:
        wanted = config.layers_to_transform
        assert isinstance(wanted, list)
        unknown = sorted(set(wanted) - {mixer.layer for mixer in chosen.values()})
        if unknown:
            raise ValueError(f"layers_to_transform: {unknown} are no recurrent layers; this model's are {layers}")
        chosen = {name: mixer for name, mixer in chosen.items() if mixer.layer in wanted}
    return chosen


def _targeted(targets: list[str] | str | None, name: str) -> bool:
    if targets is None:
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _trained_on(mixers: list[Mixer]) -> dict[str, Any]:
    first = mixers[0]
    return {
        "mixer": first.name,
        "channels": first.channels,
        "states": first.states,
        "layers": [mixer.layer for mixer in mixers],
    }


def _said(sizes: dict[str, Any]) -> str:
    layers = sizes.get("layers", [])
    return (
        f"{sizes.get('mixer')} with {sizes.get('channels')} channels and {sizes.get('states')} states in layers "
        f"{', '.join(map(str, layers))}"
    )


def weights_of(model: nn.Module, adapter_name: str) -> dict[int, dict[str, Tensor]]:
    """An adapter's tensors for each layer of a model, without their names' method prefix."""
    found: dict[int, dict[str, Tensor]] = {}
    for layer in model.modules():
        if isinstance(layer, RecurrentLayer):
            present = {name: getattr(layer, name) for name in layer.adapter_layer_names}
            found[layer.mixer.layer] = {
                name: tensors[adapter_name].detach() for name, tensors in present.items() if adapter_name in tensors
            }
    return found
