"""The model and the tokenizer that the ``model`` section of a configuration names, on a device and in a dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ssm_tune.models.config import FAMILIES
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import DTYPES, from_pretrained, resolve_model
from ssm_tune.models.tokenizer import Tokenizer, load_tokenizer
from ssm_tune.utils.errors import UserError


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name as settings and records have it: "float32"."""
    return str(dtype).removeprefix("torch.")


def choose_device(wanted: str) -> torch.device:
    """The device that ``device=cpu|cuda|auto`` stands for. Raises UserError for cuda where PyTorch sees none."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("device=cuda: PyTorch sees no CUDA device here; use device=cpu or leave device=auto")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype that ``model.dtype`` stands for; auto: bfloat16 on a GPU, float32 on a CPU.

    Raises UserError for an unknown name.
    """
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if wanted not in DTYPES:
        raise UserError(f"model.dtype must be auto or one of {', '.join(DTYPES)}, got {wanted!r}")
    return DTYPES[wanted]


def load_model(
    section: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> tuple[Mamba, Tokenizer, str | None]:
    """The model in evaluation mode, its tokenizer, and the hub's commit hash where it comes from the hub.

    section: the ``model`` section, checked by ``source.model_name``.
    Raises UserError as ``from_pretrained`` and ``load_tokenizer`` do, and for a tokenizer that does not fit the model.
    """
    if section["source"] == "random":
        return *_random_model(section, device, dtype), None
    path = Path(section["path"]).expanduser() if section["source"] == "folder" else section["path"]
    source = resolve_model(path, section["revision"])
    if section["tokenizer"]:
        tokenizer = load_tokenizer(section["tokenizer"], section["tokenizer_revision"])
    else:
        tokenizer = load_tokenizer(source)
    model = from_pretrained(source, dtype, device)
    if section.get("family") not in (None, model.config.family):
        found = model.config.title
        raise UserError(f"model.family={section['family']}: the checkpoint of {source.name} is {found}; leave it out")
    tokenizer.check_fits(model.config.vocab_size)
    return model, tokenizer, source.revision


def _random_model(section: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[Mamba, Tokenizer]:
    """A model of the given sizes with freshly drawn weights."""
    tokenizer = load_tokenizer(section["tokenizer"], section["tokenizer_revision"])
    rows = -(-tokenizer.vocab_size // 8) * 8
    for name, least in (("d_model", 1), ("n_layer", 1), ("seed", 0)):
        if type(section[name]) is not int or section[name] < least:
            raise UserError(f"model.{name} must be a whole number of at least {least}, got {section[name]!r}")
    try:
        config = FAMILIES[section.get("family") or "mamba"](section["d_model"], section["n_layer"], rows)
    except ValueError as error:  # sizes that do not belong together
        raise UserError(f"model=random: {error}") from error
    model = init_weights(Mamba(config), section["seed"]).to(device)
    model.cast_params(dtype)
    return model.eval(), tokenizer
