"""The Python API's own functions; ``from_pretrained`` and ``load_tokenizer`` live with the models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssm_tune.config.groups import method_section
from ssm_tune.generation.generate import generate
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.methods import adapter, load
from ssm_tune.methods.adapter import Adapter
from ssm_tune.methods.adapter_files import DESCRIPTION, read_adapter_files
from ssm_tune.methods.base import load_method
from ssm_tune.methods.peft_format import is_peft_adapter, read_peft_adapter
from ssm_tune.models.load import choose_device, choose_dtype, load_model
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import model_hash
from ssm_tune.models.source import model_name
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.utils.errors import UserError, first_line

__all__ = ["attach", "generate", "load_adapter"]


def attach(model: Mamba, method: str, *, seed: int = 42, dtype: torch.dtype | None = None, **options: Any) -> Adapter:
    """Freeze ``model`` and attach a method by its name on the command line, e.g. ``attach(model, "lora", rank=4)``.

    options: the keys of conf/method/NAME.yaml; what is not given is taken from there. seed: of the initial
    values. dtype: of the trained tensors, that of the model where None. The adapter's ``parameters()`` are what an
    optimizer should get, ``save(folder)`` keeps them and ``load_adapter`` brings them back.

    Raises UserError for an unknown method or option, a value out of range, or a model that has a method already.
    """
    chosen = load_method(method_section(method, options, model.config.family))
    return adapter.attach(model, chosen, seed=seed, dtype=dtype)


def load_adapter(model: Mamba, folder: str | Path) -> Adapter:
    """Attach what ``Adapter.save``, a run (its adapter/ folder) or ``ssm_tune.peft`` wrote to a fresh model.

    The files are data: no code that they name runs, but for that of ssm-tune's own methods. Added modules take the
    model's mode, which is evaluation for a model that ``from_pretrained`` gave.

    Raises UserError for files that are missing or damaged, or a model that they do not fit.
    """
    folder = Path(folder)
    if not is_peft_adapter(folder):
        return load.load_adapter(model, folder)
    name, options, tensors, _ = read_peft_adapter(folder)
    return load.put_adapter(model, method_section(name, options, model.config.family), tensors, str(folder))


@dataclass(frozen=True)
class Tuned:
    """A model with its adapter, its tokenizer, and the settings that its run decoded with."""

    model: Mamba
    adapter: Adapter
    tokenizer: Tokenizer
    decode: dict[str, Any]


def load_tuned(folder: Path, device: str = "auto", model_section: dict[str, Any] | None = None) -> Tuned:
    """Load the model that an adapter was trained on, and put the adapter on it.

    model_section: the ``model`` section of a configuration, for an adapter whose file names no model, or whose model
    lies elsewhere now. The weights' hash is checked where the adapter's file has it.
    Raises UserError where a file is missing or damaged, or the model is not the one of the training run.
    """
    if is_peft_adapter(folder):
        description: dict[str, Any] = {"model": read_peft_adapter(folder)[3] | {"hash": None}, "decode": {}}
        if not description["model"]["path"] and model_section is None:
            raise UserError(f"{folder}/adapter_config.json names no base model: set base_model_name_or_path")
    else:
        description = read_adapter_files(folder).description
    section, decode = description.get("model"), description.get("decode", {})
    if section is None and model_section is None:
        raise UserError(f"{folder / DESCRIPTION} names no model, as adapter.save() writes it: add --model NAME or DIR")
    if not isinstance(section, dict | None) or not isinstance(decode, dict):
        raise UserError(f"{folder / DESCRIPTION} was not written by a run: its model or decode settings are damaged")
    if model_section is not None:
        section = model_section | {"hash": (section or {}).get("hash")}
    assert section is not None
    place = choose_device(device)
    try:
        expected, dtype = section["hash"], choose_dtype(section["dtype"], place)
        DecodeSettings(**decode)
        own = {key: value for key, value in section.items() if key != "hash"}
        model_name(own)
        model, tokenizer, _ = load_model(own, place, dtype)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / DESCRIPTION} was not written by a run: {first_line(error)}") from error
    if expected is not None and (model.checkpoint_hash or model_hash(model)) != expected:
        raise UserError(f"{folder} was trained on another {section['name']}: the weights' hash differs")
    adapter = load_adapter(model, folder)
    return Tuned(model, adapter, tokenizer, {"eos_id": tokenizer.eos_id} | decode)
