"""Random checkpoints in every published layout, written by transformers or as plain state dicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from ssm_tune.models.pretrained import from_pretrained

SIZES = {"vocab_size": 104, "hidden_size": 24, "num_hidden_layers": 3, "state_size": 5, "conv_kernel": 3}
PLAIN = {
    "d_model": 24,
    "n_layer": 3,
    "vocab_size": 101,
    "ssm_cfg": {"d_state": 5, "d_conv": 3},
    "rms_norm": True,
}


def oracle(**overrides: Any) -> Any:
    """A random transformers model, every tensor away from its initial value (norms, D and biases too)."""
    torch.manual_seed(0)
    config = transformers.MambaConfig(**{**SIZES, **overrides})
    model = transformers.MambaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names and a contiguous copy of each tensor, without the tied head."""
    renamed = {name.replace("embeddings", "embedding"): value.clone() for name, value in state.items()}
    renamed.pop("lm_head.weight", None)
    return renamed


def plain_folder(folder: Path, state: dict[str, Tensor], **config: Any) -> Path:
    """The layout of state-spaces/mamba-*: config.json and pytorch_model.bin."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**PLAIN, **config}))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def assert_same_logits(folder: Path, model: Any, what: str, vocabulary: int = 104) -> None:
    torch.manual_seed(1)
    ids = torch.randint(0, vocabulary, (2, 37))
    with torch.no_grad():
        want, got = model(ids).logits, from_pretrained(folder)(ids)
    error = ((got - want).abs().max() / want.abs().max()).item()
    print(f"{what}: max abs error {error:.1e} of the largest logit")
    assert error <= 1e-4


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value != "REMOVE"}))


def write_safetensors(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    assert (folder / "model.safetensors").is_file()


def write_sharded(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def write_bin(model: Any, folder: Path) -> None:
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def write_bin_old_names(model: Any, folder: Path) -> None:
    model.config.save_pretrained(folder)
    torch.save(old_names(model.state_dict()), folder / "pytorch_model.bin")


def write_bin_old_names_with_head(model: Any, folder: Path) -> None:
    state = old_names(model.state_dict())
    model.config.save_pretrained(folder)
    torch.save({**state, "lm_head.weight": state["backbone.embedding.weight"]}, folder / "pytorch_model.bin")


def write_bin_legacy_format(model: Any, folder: Path) -> None:
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_sharded_bin(model: Any, folder: Path) -> None:
    model.config.save_pretrained(folder)
    state = old_names(model.state_dict())
    shard_of = {name: f"pytorch_model-{1 + i % 2:05}-of-00002.bin" for i, name in enumerate(sorted(state))}
    for shard in set(shard_of.values()):
        torch.save({name: state[name] for name in state if shard_of[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))


def write_state_spaces_bin(model: Any, folder: Path) -> None:
    plain_folder(folder, old_names(model.state_dict()))


def write_state_spaces_safetensors(model: Any, folder: Path) -> None:
    plain_folder(folder, {})
    (folder / "pytorch_model.bin").unlink()
    save_file(old_names(model.state_dict()), folder / "model.safetensors")


LAYOUTS = [
    write_safetensors,
    write_sharded,
    write_bin,
    write_bin_old_names,
    write_bin_old_names_with_head,
    write_bin_legacy_format,
    write_sharded_bin,
    write_state_spaces_bin,
    write_state_spaces_safetensors,
]


MAMBA2_SIZES = {
    "vocab_size": 104,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "state_size": 5,
    "conv_kernel": 4,
    "num_heads": 8,
    "head_dim": 6,
    "n_groups": 2,
    "chunk_size": 16,
    "tie_word_embeddings": True,
}


def mamba2_oracle(**overrides: Any) -> Any:
    """A random Mamba-2 of transformers, every tensor away from its initial value."""
    torch.manual_seed(0)
    model = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**{**MAMBA2_SIZES, **overrides})).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def mamba2_plain_folder(folder: Path, model: Any, **ssm_cfg: Any) -> Path:
    """The layout of state-spaces/mamba2-*, with MAMBA2_SIZES."""
    sizes = {"layer": "Mamba2", "d_state": 5, "headdim": 6, "ngroups": 2, **ssm_cfg}
    state = old_names(model.state_dict())
    return plain_folder(folder, state, n_layer=2, vocab_size=100, pad_vocab_size_multiple=8, ssm_cfg=sizes)
