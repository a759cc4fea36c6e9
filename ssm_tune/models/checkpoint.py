"""Reads a checkpoint's config.json and tensors from a folder, in the two published layouts.

(a) ``state-spaces/mamba-*``: keys d_model, n_layer, ssm_cfg, ...; the vocabulary is padded up to a multiple.
(b) ``-hf`` of transformers: keys hidden_size, num_hidden_layers, ...; the embedding is called
    ``backbone.embeddings`` (older files: ``backbone.embedding``).
Weights are read as tensors, never as code. What our Mamba does not do is refused by name, never ignored.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssm_tune.models.config import MambaConfig
from ssm_tune.utils.errors import UserError, first_line

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weight files, the preferred one first: where several are present only the first is read."""

# Keys of (a) that are read or checked; a key of neither kind is refused.
_KNOWN = {
    "d_model",
    "n_layer",
    "vocab_size",
    "pad_vocab_size_multiple",
    "norm_epsilon",
    "tie_embeddings",
    "ssm_cfg",
}
_KNOWN |= {"residual_in_fp32", "rms_norm", "attn_layer_idx", "d_intermediate", "model_type"}
_KNOWN_SSM = {"layer", "conv_bias", "bias", "d_state", "d_conv", "expand", "dt_rank"}
# Keys of (a) that change no logit: initial values, the choice of kernel, bookkeeping.
_NO_EFFECT = {"fused_add_norm", "attn_cfg", "architectures", "torch_dtype", "dtype", "transformers_version"}
_NO_EFFECT_SSM = {"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"}
_LARGEST = 1_000_000  # no size of a model exceeds it; a garbled config must not exhaust the memory


class _Fields:
    """Typed access to a JSON object; each error names the file and the key."""

    def __init__(self, file: Path, values: object, within: str = "") -> None:
        self.file, self.within = file, within
        if not isinstance(values, dict):
            raise UserError(f"{file}: {within.rstrip('.') or 'the file'} must hold a JSON object")
        self.values: dict[str, Any] = values

    def refuse(self, key: str, why: str) -> UserError:
        return UserError(f"{self.file}: {self.within}{key} {why}")

    def integer(self, key: str, default: int | None = None, largest: int = _LARGEST) -> int:
        value = self.values.get(key, default)
        if value is None:
            raise self.refuse(key, "is missing")
        if type(value) is not int or not 1 <= value <= largest:
            raise self.refuse(key, f"must be an integer from 1 to {largest}, got {value!r}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if type(value) is not bool:
            raise self.refuse(key, f"must be true or false, got {value!r}")
        return value

    def positive(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < 1:
            raise self.refuse(key, f"must be a number between 0 and 1, got {value!r}")
        return float(value)

    def rank(self, key: str) -> int:
        """The step size's rank; 0 for "auto"."""
        return 0 if self.values.get(key, "auto") == "auto" else self.integer(key)

    def require(self, key: str, supported: object) -> None:
        """Refuse a feature: where the key is present it must have the one supported value."""
        value = self.values.get(key, supported)
        if value != supported or type(value) is not type(supported):
            raise self.refuse(key, f"is {value!r}: not supported, only {json.dumps(supported)} is")

    def known(self, keys: set[str]) -> None:
        for key in sorted(self.values.keys() - keys):
            raise self.refuse(key, "is a key that is not known here; refused, as it might change the model")


def read_config(folder: Path) -> MambaConfig:
    """The model's sizes from ``folder/config.json``, either layout.

    Raises UserError: the file is missing or malformed, a value is missing or out of range, or it asks for
    something that our Mamba does not do.
    """
    file = folder / "config.json"
    fields = _Fields(file, _read_json(file))
    if "hidden_size" in fields.values or "num_hidden_layers" in fields.values:
        return _transformers_config(fields)
    return _state_spaces_config(fields)


def _state_spaces_config(fields: _Fields) -> MambaConfig:
    ssm = _Fields(fields.file, fields.values.get("ssm_cfg", {}), within="ssm_cfg.")
    ssm.require("layer", "Mamba1")
    ssm.require("conv_bias", True)
    ssm.require("bias", False)
    ssm.known(_KNOWN_SSM | _NO_EFFECT_SSM)
    fields.require("model_type", "mamba")
    fields.require("rms_norm", True)
    fields.require("attn_layer_idx", [])
    fields.require("d_intermediate", 0)
    d_model, n_layer = fields.integer("d_model"), fields.integer("n_layer", largest=10_000)
    fields.known(_KNOWN | _NO_EFFECT)
    vocab_size, multiple = fields.integer("vocab_size"), fields.integer("pad_vocab_size_multiple", 8)
    return MambaConfig(
        d_model=d_model,
        n_layer=n_layer,
        vocab_size=-(-vocab_size // multiple) * multiple,
        d_state=ssm.integer("d_state", 16),
        d_conv=ssm.integer("d_conv", 4),
        expand=ssm.integer("expand", 2),
        dt_rank=ssm.rank("dt_rank"),
        norm_eps=fields.positive("norm_epsilon", 1e-5),
        tie_embeddings=fields.boolean("tie_embeddings", True),
        residual_in_fp32=fields.boolean("residual_in_fp32", True),
    )


def _transformers_config(fields: _Fields) -> MambaConfig:
    """Unlike (a), unknown keys pass: transformers' bookkeeping has no end; model_type settles what it is."""
    fields.require("model_type", "mamba")
    fields.require("hidden_act", "silu")
    fields.require("use_bias", False)
    fields.require("use_conv_bias", True)
    fields.require("rms_norm", True)
    for key in ("quantization_config", "attn_layer_idx", "num_heads"):
        if fields.values.get(key):
            raise fields.refuse(key, "is set: not supported")
    _Fields(fields.file, fields.values.get("ssm_cfg", {}), within="ssm_cfg.").require("layer", "Mamba1")
    d_model, expand = fields.integer("hidden_size"), fields.integer("expand", 2)
    if fields.integer("intermediate_size", expand * d_model) != expand * d_model:
        raise fields.refuse("intermediate_size", f"must be expand * hidden_size = {expand * d_model}")
    return MambaConfig(
        d_model=d_model,
        n_layer=fields.integer("num_hidden_layers", largest=10_000),
        vocab_size=fields.integer("vocab_size"),
        d_state=fields.integer("state_size", 16),
        d_conv=fields.integer("conv_kernel", 4),
        expand=expand,
        dt_rank=fields.rank("time_step_rank"),
        norm_eps=fields.positive("layer_norm_epsilon", 1e-5),
        tie_embeddings=fields.boolean("tie_word_embeddings", True),
        residual_in_fp32=fields.boolean("residual_in_fp32", True),
    )


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, Path]]:
    """The checkpoint's tensors under the names of ``Mamba``, and the file of each; CPU, dtypes as stored.

    Raises UserError: no weight file, a shard missing, a file truncated, malformed or holding pickled code,
    something that is not a floating-point tensor, or one tensor twice.
    """
    tensors: dict[str, Tensor] = {}
    origin: dict[str, Path] = {}
    for file in _weight_files(folder):
        for published, value in _read_weights(file).items():
            name = _our_name(published)
            if name in tensors:
                raise UserError(f"{file}: tensor {published} stands twice (also in {origin[name]})")
            if not isinstance(value, Tensor):
                raise UserError(f"{file}: {published} is a {type(value).__name__}; only tensors are expected")
            if not value.is_floating_point() or value.layout != torch.strided:
                raise UserError(f"{file}: tensor {published} is {value.dtype}, {value.layout}, not plain floats")
            tensors[name], origin[name] = value.detach(), file
    return tensors, origin


def _our_name(published: str) -> str:
    return published.replace("backbone.embeddings.", "backbone.embedding.", 1)


def _weight_files(folder: Path) -> list[Path]:
    present = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not present:
        raise UserError(f"{folder}: no weights; one of {', '.join(WEIGHTS)} is needed")
    file = present[0]
    if not file.name.endswith(".index.json"):
        return [file]
    index = _Fields(file, _read_json(file)).values
    shards = _Fields(file, index.get("weight_map"), within="weight_map.").values.values()
    files = []
    for shard in dict.fromkeys(map(str, shards)):
        if Path(shard).name != shard or not shard.endswith((".safetensors", ".bin")):
            raise UserError(f"{file}: {shard!r} is not the name of a weight file beside it")
        if not (folder / shard).is_file():
            raise UserError(f"{folder / shard}: missing, but {file.name} names it; copy or download it again")
        files.append(folder / shard)
    return files


def _read_weights(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # The restricted unpickler builds tensors and plain containers and refuses everything else.
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file}: holds pickled code, or is no weight file at all; refused, nothing was run."
            " Take the checkpoint's model.safetensors, or a state dict of plain tensors"
        ) from error
    except PermissionError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except Exception as error:  # both readers run off the end of a broken file in many ways
        raise UserError(f"{file}: truncated or malformed ({first_line(error)}); copy or download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}, not a state dict (name -> tensor)")
    return {str(name): value for name, value in content.items()}


def _read_json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing; a checkpoint's folder needs it") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({first_line(error)})") from error
