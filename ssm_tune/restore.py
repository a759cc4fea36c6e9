"""From a saved adapter back to a tuned model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.api import load_adapter
from ssm_tune.experiment.setup import choose_device, choose_dtype, load_model
from ssm_tune.methods.base import Adapter, read_adapter
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import model_hash
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.utils.errors import UserError


@dataclass(frozen=True)
class Tuned:
    """A model with its adapter, its tokenizer, and the settings that its run decoded with."""

    model: Mamba
    adapter: Adapter
    tokenizer: Tokenizer
    decode: dict[str, Any]


def load_tuned(folder: Path, device: str = "auto") -> Tuned:
    """Load the model that an adapter was trained on, and put the adapter on it.

    Raises UserError where a file is missing or damaged, or the model is not the one of the training run.
    """
    description, _ = read_adapter(folder)
    place = choose_device(device)
    try:
        section, decode, expected = description["model"], description["decode"], description["model"]["hash"]
        model, tokenizer, _ = load_model(section, place, choose_dtype(section["dtype"], place))
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'adapter.json'} lacks {error}: it was not written by a run") from error
    if (model.checkpoint_hash or model_hash(model)) != expected:
        raise UserError(f"{folder} was trained on another {section['name']}: the weights' hash differs")
    adapter = load_adapter(model, folder)
    model.eval()
    return Tuned(model, adapter, tokenizer, decode)
