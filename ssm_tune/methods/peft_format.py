"""An adapter in the format of Hugging Face peft, as ``ssm_tune.peft`` reads and writes it, without either package.

adapter_config.json holds the method and its options, adapter_model.safetensors the tensors. Blocks have the same names
in transformers' Mamba models and here, so that only the last part of a tensor's name changes: ``TENSORS`` has the
pairs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, encode_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TENSORS = {
    "injection.state_offset.value": "state_offset_h",
    "injection.state_offset.U": "state_offset_U",
    "injection.state_offset.V": "state_offset_V",
    "injection.output_offset.value": "state_offset_y",
    "injection.initial_state.value": "initial_state_h",
    "injection.extra_states.B": "additional_scan_B",
    "injection.extra_states.C": "additional_scan_C",
    "injection.extra_states.A_log": "additional_scan_A_log",
}
_OURS = {theirs: ours for ours, theirs in TENSORS.items()}
PREFIX = "base_model.model."
_METHODS = ("state_offset", "state_offset_y", "initial_state", "additional_scan")


def is_peft_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter in peft's format."""
    return (folder / CONFIG).is_file()


def write_peft_adapter(description: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    """Write what ``read_adapter`` gave as peft's two files.

    Raises UserError for a method that ``ssm_tune.peft`` does not have, or a file that cannot be written.
    """
    config = _config(description["method"]) | {
        "base_model_name_or_path": description.get("model", {}).get("path"),
        "revision": description.get("model", {}).get("revision"),
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    named = {}
    for name, tensor in tensors.items():
        block, dot, slot = name.partition(".mixer.")
        if slot not in TENSORS:
            raise UserError(f"ssm_tune.peft has no place for {name}: it has no additional_scan on Mamba-2")
        named[f"{PREFIX}{block}{dot}{TENSORS[slot]}"] = tensor.contiguous()
    atomic_write(folder / WEIGHTS, [safetensors.torch.save(named, metadata={"format": "pt"})])
    atomic_write(folder / CONFIG, [encode_json(config, indent=2), b"\n"])


def read_peft_adapter(folder: Path) -> tuple[str, dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """A method's name, its options, its tensors by the names in our models, and the ``model`` section of its base.

    The section's path is empty where no base is named. Raises UserError for files that are missing or damaged, and for
    what ssm-tune's methods do not have.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        loaded = safetensors.torch.load_file(folder / WEIGHTS)
    except (ValueError, OSError, SafetensorError) as error:
        raise UserError(f"the adapter in {folder} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is no adapter's configuration")
    name, options = _method(config, folder)
    scale = _scale(config, folder)
    tensors = {}
    for key, tensor in loaded.items():
        block, dot, slot = key.removeprefix(PREFIX).partition(".mixer.")
        if slot not in _OURS:
            raise UserError(f"{folder / WEIGHTS} holds {key}, which is no part of {name}")
        scaled = slot in ("state_offset_h", "state_offset_V", "state_offset_y") and scale != 1
        tensors[f"{block}{dot}{_OURS[slot]}"] = tensor * scale if scaled else tensor
    return name, options, tensors, _model_section(config)


def _config(method: dict[str, Any]) -> dict[str, Any]:
    name = method.get("name")
    if name not in _METHODS:
        raise UserError(
            f"{name} is no method of ssm_tune.peft, which has {', '.join(_METHODS)} (and lora is peft's own); --merge "
            "writes plain weights where a method can be merged"
        )
    if name in ("state_offset", "state_offset_y"):
        offset = "y" if name == "state_offset_y" else "h"
        return {"peft_type": "STATE_OFFSET", "offset": offset, "rank": method.get("rank"), "alpha": None}
    if name == "initial_state":
        return {"peft_type": "INITIAL_STATE"}
    return {"peft_type": "ADDITIONAL_SCAN", "states": method["states"], "a_init": method["a_init"]}


def _method(config: dict[str, Any], folder: Path) -> tuple[str, dict[str, Any]]:
    kind = config.get("peft_type")
    try:
        if kind == "STATE_OFFSET":
            return ("state_offset_y", {}) if config["offset"] == "y" else ("state_offset", {"rank": config["rank"]})
        if kind == "INITIAL_STATE":
            return "initial_state", {}
        if kind == "ADDITIONAL_SCAN":
            return "additional_scan", {"states": config["states"], "a_init": config["a_init"]}
    except KeyError as error:
        raise UserError(f"{folder / CONFIG} lacks {error}") from error
    raise UserError(
        f"{folder} holds an adapter of peft's {kind}; ssm-tune reads those of STATE_OFFSET, INITIAL_STATE and "
        "ADDITIONAL_SCAN"
    )


def _scale(config: dict[str, Any], folder: Path) -> float:
    alpha, rank = config.get("alpha"), config.get("rank")
    if alpha is None:
        return 1.0
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise UserError(f"{folder / CONFIG}: alpha must be a number, got {alpha!r}")
    return float(alpha) / (rank if isinstance(rank, int) and rank > 0 else 1)


def _model_section(config: dict[str, Any]) -> dict[str, Any]:
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str):
        base = ""
    return {
        "name": Path(base).name,
        "source": "folder" if base and Path(base).is_dir() else "hub",
        "path": base,
        "revision": config.get("revision"),
        "tokenizer": None,
        "tokenizer_revision": None,
        "dtype": "auto",
    }
