"""A checkpoint's config.json, read and written, in the two published layouts of both families.

(a) the original one, of ``state-spaces/mamba-*`` and ``mamba2-*``: keys d_model, n_layer, ssm_cfg, ...; the vocabulary
    is padded up to a multiple.
(b) transformers': keys hidden_size, num_hidden_layers, ...
What our models do not do is refused by name, never ignored.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssm_tune.config.groups import family_in
from ssm_tune.models.config import Mamba2Config, MambaConfig, ModelConfig
from ssm_tune.utils.errors import UserError, first_line, short, shown_name

# Keys of (a) that are read or checked; a key of neither kind is refused.
_KNOWN = {
    "d_model",
    "n_layer",
    "vocab_size",
    "pad_vocab_size_multiple",
    "norm_epsilon",
    "tie_embeddings",
    "ssm_cfg",
    "residual_in_fp32",
    "rms_norm",
    "attn_layer_idx",
    "d_intermediate",
    "model_type",
}
_SSM = {"layer", "conv_bias", "bias", "d_state", "d_conv", "expand"}
_KNOWN_SSM = {
    "mamba": _SSM | {"dt_rank"},
    "mamba2": _SSM | {"headdim", "ngroups", "dt_limit", "d_ssm", "D_has_hdim", "rmsnorm", "norm_before_gate"},
}
# Keys of (a) that change no logit: initial values, the choice of kernel, bookkeeping.
_NO_EFFECT = {"fused_add_norm", "attn_cfg", "architectures", "torch_dtype", "dtype", "transformers_version"}
_NO_EFFECT_SSM = {
    "mamba": {"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"},
    "mamba2": {"dt_min", "dt_max", "dt_init_floor", "conv_init", "A_init_range", "chunk_size", "use_mem_eff_path"},
}
_LARGEST = 1_000_000  # no size of a model exceeds it; a garbled config must not exhaust the memory


class Fields:
    """Typed access to a JSON object; each error names the file and the key."""

    def __init__(self, file: Path, values: object, within: str = "") -> None:
        self.file, self.within = file, within
        if not isinstance(values, dict):
            raise UserError(f"{file}: {within.rstrip('.') or 'the file'} must hold a JSON object")
        self.values: dict[str, Any] = values

    def refuse(self, key: str, why: str) -> UserError:
        return UserError(f"{self.file}: {self.within}{shown_name(key)} {why}")

    def integer(self, key: str, default: int | None = None, largest: int = _LARGEST) -> int:
        value = self.values.get(key, default)
        if value is None:
            raise self.refuse(key, "is missing")
        if type(value) is not int or not 1 <= value <= largest:
            raise self.refuse(key, f"must be an integer from 1 to {largest}, got {short(value)}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if type(value) is not bool:
            raise self.refuse(key, f"must be true or false, got {short(value)}")
        return value

    def positive(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < 1:
            raise self.refuse(key, f"must be a number between 0 and 1, got {short(value)}")
        return float(value)

    def rank(self, key: str) -> int:
        """The step size's rank; 0 for "auto"."""
        return 0 if self.values.get(key, "auto") == "auto" else self.integer(key)

    def require(self, key: str, supported: object) -> None:
        """Refuse a feature: where the key is present it must have the one supported value."""
        value = self.values.get(key, supported)
        if value != supported or type(value) is not type(supported):
            raise self.refuse(key, f"is {short(value)}: not supported, only {json.dumps(supported)} is")

    def known(self, keys: set[str]) -> None:
        for key in sorted(self.values.keys() - keys):
            raise self.refuse(key, "is a key that is not known here; refused, as it might change the model")

    def step_sizes(self, key: str) -> tuple[float, float]:
        """A least and a largest step size; infinity as JSON's Infinity or as transformers writes it."""
        value = self.values.get(key)
        if value is None:
            return 0.0, math.inf
        if isinstance(value, list) and len(value) == 2:
            low, high = (math.inf if one == {"__float__": "Infinity"} else one for one in value)
            if type(low) in (int, float) and type(high) in (int, float) and 0 <= low <= high:
                return float(low), float(high)
        raise self.refuse(key, f"must be two step sizes, the smaller one first, got {short(value)}")

    def divisor(self, key: str, default: int, of: int, what: str) -> int:
        """An integer that divides ``of``, which is the number of ``what``."""
        value = self.integer(key, default)
        if of % value:
            raise self.refuse(key, f"is {value}, which does not divide the {of} {what}")
        return value


def read_json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing; a checkpoint's folder needs it") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({first_line(error)})") from error


def read_config(folder: Path) -> ModelConfig:
    """The model's sizes from ``folder/config.json``, either layout and family.

    Raises UserError: the file is missing or malformed, a value is missing or out of range, or it asks for
    something that our models do not do.
    """
    file = folder / "config.json"
    fields = Fields(file, read_json(file))
    family = family_in(fields.values)
    if "hidden_size" in fields.values or "num_hidden_layers" in fields.values:
        return _transformers_mamba2(fields) if family == "mamba2" else _transformers_mamba(fields)
    return _original(fields, family)


def _original(fields: Fields, family: str) -> ModelConfig:
    ssm = Fields(fields.file, fields.values.get("ssm_cfg", {}), within="ssm_cfg.")
    ssm.require("layer", "Mamba2" if family == "mamba2" else "Mamba1")
    ssm.require("conv_bias", True)
    ssm.require("bias", False)
    ssm.known(_KNOWN_SSM[family] | _NO_EFFECT_SSM[family])
    fields.require("model_type", family)
    fields.require("rms_norm", True)
    fields.require("attn_layer_idx", [])
    fields.require("d_intermediate", 0)
    d_model, n_layer = fields.integer("d_model"), fields.integer("n_layer", largest=10_000)
    fields.known(_KNOWN | _NO_EFFECT)
    vocab_size, multiple = fields.integer("vocab_size"), fields.integer("pad_vocab_size_multiple", 8)
    common: dict[str, Any] = {
        "d_model": d_model,
        "n_layer": n_layer,
        "vocab_size": -(-vocab_size // multiple) * multiple,
        "d_conv": ssm.integer("d_conv", 4),
        "expand": ssm.integer("expand", 2),
        "norm_eps": fields.positive("norm_epsilon", 1e-5),
        "tie_embeddings": fields.boolean("tie_embeddings", True),
        "residual_in_fp32": fields.boolean("residual_in_fp32", True),
    }
    if family == "mamba":
        return MambaConfig(**common, d_state=ssm.integer("d_state", 16), dt_rank=ssm.rank("dt_rank"))
    channels = common["expand"] * d_model
    if ssm.values.get("d_ssm") not in (None, channels):
        raise ssm.refuse("d_ssm", f"must be expand * d_model = {channels}: not supported otherwise")
    ssm.require("D_has_hdim", False)
    ssm.require("rmsnorm", True)
    ssm.require("norm_before_gate", False)
    headdim = ssm.divisor("headdim", 64, channels, "channels of a block")
    return Mamba2Config(
        **common,
        d_state=ssm.integer("d_state", 128),
        headdim=headdim,
        ngroups=ssm.divisor("ngroups", 1, channels // headdim, "heads of a block"),
        dt_limit=ssm.step_sizes("dt_limit"),
    )


def _transformers_common(fields: Fields, family: str, tied: bool) -> dict[str, Any]:
    """Unlike in (a), unknown keys pass: transformers' bookkeeping has no end; model_type settles what it is.

    tied: transformers' default for the embedding and the head.
    """
    fields.require("model_type", family)
    fields.require("hidden_act", "silu")
    fields.require("use_bias", False)
    fields.require("use_conv_bias", True)
    fields.require("rms_norm", True)
    for key in ("quantization_config", "attn_layer_idx"):
        if fields.values.get(key):
            raise fields.refuse(key, "is set: not supported")
    return {
        "d_model": fields.integer("hidden_size"),
        "n_layer": fields.integer("num_hidden_layers", largest=10_000),
        "vocab_size": fields.integer("vocab_size"),
        "d_conv": fields.integer("conv_kernel", 4),
        "expand": fields.integer("expand", 2),
        "norm_eps": fields.positive("layer_norm_epsilon", 1e-5),
        "tie_embeddings": fields.boolean("tie_word_embeddings", tied),
        "residual_in_fp32": fields.boolean("residual_in_fp32", True),
    }


def _transformers_mamba(fields: Fields) -> MambaConfig:
    common = _transformers_common(fields, "mamba", tied=True)
    if fields.values.get("num_heads"):
        raise fields.refuse("num_heads", "is set: not supported")
    Fields(fields.file, fields.values.get("ssm_cfg", {}), within="ssm_cfg.").require("layer", "Mamba1")
    channels = common["expand"] * common["d_model"]
    if fields.integer("intermediate_size", channels) != channels:
        raise fields.refuse("intermediate_size", f"must be expand * hidden_size = {channels}")
    return MambaConfig(**common, d_state=fields.integer("state_size", 16), dt_rank=fields.rank("time_step_rank"))


def _transformers_mamba2(fields: Fields) -> Mamba2Config:
    common = _transformers_common(fields, "mamba2", tied=False)
    channels = common["expand"] * common["d_model"]
    heads, headdim = fields.integer("num_heads", 128), fields.integer("head_dim", 64)
    if heads * headdim != channels:
        raise fields.refuse("num_heads", f"times head_dim is {heads * headdim}, not expand * hidden_size = {channels}")
    return Mamba2Config(
        **common,
        d_state=fields.integer("state_size", 128),
        headdim=headdim,
        ngroups=fields.divisor("n_groups", 8, heads, "heads of a block"),
        dt_limit=fields.step_sizes("time_step_limit"),
    )


def original_layout(config: ModelConfig) -> dict[str, Any]:
    """What ``read_config`` reads as layout (a)."""
    sizes = asdict(config)
    names = ["d_state", "d_conv", "expand", *(("dt_rank",) if config.family == "mamba" else ("headdim", "ngroups"))]
    ssm_cfg = {name: sizes.pop(name) for name in names}
    if isinstance(config, Mamba2Config):
        limit = sizes.pop("dt_limit")
        ssm_cfg |= {"layer": "Mamba2"} | ({"dt_limit": list(limit)} if limit != (0.0, math.inf) else {})
    norm_eps = sizes.pop("norm_eps")
    layout = {**sizes, "ssm_cfg": ssm_cfg, "rms_norm": True, "pad_vocab_size_multiple": 1}
    if norm_eps != 1e-5:  # the one value that the original implementation has
        layout["norm_epsilon"] = norm_eps
    return layout


def transformers_layout(config: ModelConfig) -> dict[str, Any]:
    """The model's keys of layout (b)."""
    layout = {
        "model_type": config.family,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "vocab_size": config.vocab_size,
        "state_size": config.d_state,
        "conv_kernel": config.d_conv,
        "expand": config.expand,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "residual_in_fp32": config.residual_in_fp32,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "rms_norm": True,
    }
    if isinstance(config, Mamba2Config):
        high = config.dt_limit[1]
        return {
            **layout,
            "architectures": ["Mamba2ForCausalLM"],
            "num_heads": config.nheads,
            "head_dim": config.headdim,
            "n_groups": config.ngroups,
            "time_step_limit": [config.dt_limit[0], {"__float__": "Infinity"} if math.isinf(high) else high],
        }
    assert isinstance(config, MambaConfig)
    return {
        **layout,
        "architectures": ["MambaForCausalLM"],
        "intermediate_size": config.d_inner,
        "time_step_rank": config.dt_rank,
    }
