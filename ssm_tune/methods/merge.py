"""An adapter written into plain weights, where its method can be expressed in them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ssm_tune.methods.adapter import Adapter
from ssm_tune.models.adapter_slots import ProjectionChange
from ssm_tune.models.config import ModelConfig
from ssm_tune.utils.errors import UserError


@torch.no_grad()
def merge_and_unload(adapter: Adapter) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Sizes and weights of a plain model that computes what the tuned one does, by the names in ``Mamba``.

    Copies on the CPU, in the dtypes of the weights that they change. Further states become rows of the projections,
    so the sizes may differ. Raises UserError for a method that no weight can hold, with the reason.
    """
    model, reason = adapter.model, adapter.method.unmergeable_reason
    if reason is not None:
        raise UserError(f"{adapter.method.name} has no equal in plain weights: {reason}; export it without --merge")
    weights = {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if ".injection." not in name and not name.startswith("prompt.")
    }
    states = model.config.d_state
    for index, mixer in enumerate(model.mixers):
        within = f"backbone.layers.{index}.mixer."
        for projection, update in mixer.injection.updates.items():
            assert isinstance(update, ProjectionChange)
            update.merge(weights[f"{within}{projection}.weight"])
        if mixer.injection.A_log_update is not None:
            weights[f"{within}A_log"] = mixer.injection.A_log_update(mixer.get_parameter("A_log")).cpu()
        if mixer.injection.extra_states is not None:
            own = {name.removeprefix(within): weights[name] for name in weights if name.startswith(within)}
            mixer.merge_states(own)
            weights.update({within + name: value for name, value in own.items()})
            states = model.config.d_state + mixer.injection.extra_states.count
    return dataclasses.replace(model.config, d_state=states), weights
