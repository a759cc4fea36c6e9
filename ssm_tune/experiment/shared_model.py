"""A base model that stays on its device from run to run. Each run gets one of its own on the same weights in memory."""

from __future__ import annotations

import json
from typing import Any

import torch

from ssm_tune.experiment.lent_model import LentModel
from ssm_tune.experiment.shared import Shared, file_stamps
from ssm_tune.methods.adapter import Adapter
from ssm_tune.models.load import load_model
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.tokenizer import Tokenizer


def take_model(
    section: dict[str, Any], device: torch.device, dtype: torch.dtype, shared: Shared | None
) -> tuple[Mamba, Tokenizer, str | None]:
    """As ``load_model``, from what is shared where it is the same model, whole."""
    if shared is None:
        return load_model(section, device, dtype)
    files = file_stamps(section["path"] if section["source"] == "folder" else None, section["tokenizer"])
    key = (json.dumps(section, sort_keys=True), str(device), str(dtype), files)
    if shared.model is None or shared.model.key != key or not shared.model.is_unchanged():
        shared.model = None  # its memory is free before the next one is loaded
        shared.model = LentModel(key, *load_model(section, device, dtype))
    return shared.model.lend(), shared.model.tokenizer, shared.model.revision


def keep_weights(adapter: Adapter, shared: Shared | None) -> None:
    """See to it that training changes no shared weight.

    Vectors that the method trains of the base are copied. Where it trains matrices, the run takes the model with it and
    the next one loads it again: products may round otherwise with weights that lie elsewhere in memory.
    """
    if shared is None or shared.model is None:
        return
    trained = [parameter for parameter in adapter.parameters() if shared.model.lent(parameter)]
    if any(parameter.dim() > 1 for parameter in trained):
        shared.model = None
        return
    for parameter in trained:
        parameter.data = parameter.data.clone()
