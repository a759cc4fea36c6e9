"""A Mamba-2 computes what transformers' Mamba2ForCausalLM does, from every layout; what it is not is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.random_checkpoints import (
    edit_config,
    mamba2_oracle,
    mamba2_plain_folder,
    oracle,
    write_bin,
    write_safetensors,
    write_sharded,
    write_sharded_bin,
)

from ssm_tune.models.config import Mamba2Config, MambaConfig
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import from_pretrained, load_checkpoint, model_hash, save_pretrained
from ssm_tune.utils.errors import UserError

TOLERANCE = 1e-4  # of the largest logit, in float32


def ids(*shape: int, vocabulary: int = 104) -> torch.Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def error(ours: Mamba, theirs: Any, tokens: torch.Tensor) -> float:
    want, got = theirs(tokens).logits, ours(tokens)
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("limits", [(0.0, math.inf), (0.02, 0.3)], ids=["unlimited", "limited"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_logits_are_those_of_transformers(groups: int, limits: tuple[float, float], tmp_path: Path) -> None:
    """At lengths around transformers' chunks (16) and ours (64)."""
    theirs = mamba2_oracle(n_groups=groups, time_step_limit=limits)
    theirs.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    assert ours.config.dt_limit == limits  # type: ignore[attr-defined]
    for length in (1, 3, 15, 16, 17, 63, 64, 65, 101):
        assert error(ours, theirs, ids(2, length)) < TOLERANCE, length


@torch.no_grad()
def test_right_padding_changes_nothing(tmp_path: Path) -> None:
    theirs = mamba2_oracle(time_step_limit=(0.02, 0.3))  # the least step size must not reach padding
    theirs.save_pretrained(tmp_path)
    ours, tokens, lengths = from_pretrained(tmp_path), ids(3, 70), torch.tensor([1, 65, 70])
    logits, cache = ours.prefill(tokens, lengths)
    following = ours.step(ids(3), cache)
    for row, length in enumerate(lengths.tolist()):
        read = torch.cat([tokens[row, :length], ids(3)[row : row + 1]])
        want = theirs(read.unsqueeze(0)).logits[0]
        assert (logits[row] - want[-2]).abs().max() < TOLERANCE * want.abs().max()
        assert (following[row] - want[-1]).abs().max() < TOLERANCE * want.abs().max()


@pytest.mark.parametrize("write", [write_safetensors, write_sharded, write_bin, write_sharded_bin, mamba2_plain_folder])
def test_every_layout_gives_the_same_model(write: Callable[..., Any], tmp_path: Path) -> None:
    theirs = mamba2_oracle()
    write(*((tmp_path, theirs) if write is mamba2_plain_folder else (theirs, tmp_path)))
    assert error(from_pretrained(tmp_path), theirs, ids(2, 37)) < TOLERANCE


@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": False, "time_step_limit": (0.1, 0.2)}], ids=str)
def test_round_trip_keeps_scan_parameters_in_float32(overrides: dict[str, Any], tmp_path: Path) -> None:
    mamba2_oracle(**overrides).save_pretrained(tmp_path / "a")
    first = from_pretrained(tmp_path / "a", "bfloat16")
    wide = {name for name, value in first.named_parameters() if value.dtype == torch.float32}
    assert {name.rpartition(".")[2] for name in wide} == {"A_log", "D", "dt_bias"}
    save_pretrained(first, tmp_path / "b")
    second = from_pretrained(tmp_path / "b", "bfloat16")
    assert second.config == first.config
    assert model_hash(second) == model_hash(first)


def test_a_pretrained_mamba2_has_the_logits_of_transformers(shared: Path) -> None:
    """The checkpoint is in the original layout, in bfloat16."""
    folder = shared / "models" / "mamba2-25m"
    config, tensors = load_checkpoint(folder)
    sizes = transformers.Mamba2Config(
        vocab_size=config.vocab_size, hidden_size=512, num_hidden_layers=12, state_size=128, num_heads=16, head_dim=64,
        n_groups=1, tie_word_embeddings=True,
    )  # fmt: skip
    theirs = transformers.Mamba2ForCausalLM(sizes).float().eval()
    renamed = {name.replace(".embedding.", ".embeddings."): value for name, value in tensors.items()}
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert missing == ["lm_head.weight"]
    assert not unexpected
    assert error(from_pretrained(folder), theirs, ids(2, 300, vocabulary=8192)) < TOLERANCE


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(32, 2, 48),
        Mamba2Config(32, 2, 48, headdim=16, ngroups=2),
        MambaConfig(32, 2, 48, tie_embeddings=False),
    ],
)
def test_the_closed_form_counts_all_parameters(config: MambaConfig | Mamba2Config) -> None:
    model = init_weights(Mamba(config), 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.num_params
    mixer = model.mixers[0]
    assert config.block_params == {name: x.numel() for name, x in model.backbone.blocks[1].named_parameters()}
    outer = {name: x.numel() for name, x in model.named_parameters() if ".layers." not in name}
    assert config.outer_params == outer
    assert {*config.scan_params, config.dt_bias} <= config.mixer_params.keys()
    for name, part in config.linear_maps.items():
        weight = getattr(mixer, part.projection).weight
        assert weight.shape[1] == part.width
        assert 0 <= part.start < part.end <= weight.shape[0]
        assert "." in name or (part.start, part.end) == (0, weight.shape[0])
    assert tuple(config.linear_maps) == config.map_names


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_groups": 3}, ("n_groups", "divide")),
        ({"num_heads": 7}, ("num_heads",)),
        ({"time_step_limit": [0.3, 0.1]}, ("time_step_limit",)),
        ({"time_step_limit": "wide"}, ("time_step_limit",)),
        ({"use_bias": True}, ("use_bias",)),
        ({"state_size": 0}, ("state_size",)),
        ({"model_type": "mamba"}, ("config.json",)),
    ],
    ids=str,
)
def test_a_config_that_cannot_work_is_refused_by_name(
    changes: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    mamba2_oracle().save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    refused(tmp_path, *words)


@pytest.mark.parametrize(
    ("option", "value"),
    [("ngroups", 3), ("headdim", 7), ("D_has_hdim", True), ("norm_before_gate", True), ("rmsnorm", False),
     ("d_ssm", 24), ("dt_rank", 3)],
)  # fmt: skip
def test_an_original_config_that_cannot_work_is_refused_by_name(option: str, value: Any, tmp_path: Path) -> None:
    refused(mamba2_plain_folder(tmp_path, mamba2_oracle(), **{option: value}), f"ssm_cfg.{option}")


def test_weights_of_the_other_family_are_refused(tmp_path: Path) -> None:
    for number, (config, weights) in enumerate([(mamba2_oracle(), oracle()), (oracle(), mamba2_oracle())]):
        folder = tmp_path / str(number)
        weights.save_pretrained(folder)
        config.config.save_pretrained(folder)
        refused(folder, "a Mamba-1", "a Mamba-2", "config.json")


def test_a_missing_or_misshapen_tensor_is_refused_by_name(tmp_path: Path) -> None:
    theirs = mamba2_oracle()
    folder = mamba2_plain_folder(tmp_path, theirs)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    name = "backbone.layers.1.mixer.norm.weight"
    torch.save({key: value for key, value in state.items() if key != name}, folder / "pytorch_model.bin")
    refused(folder, name, "missing")
    torch.save(state | {name: torch.ones(47)}, folder / "pytorch_model.bin")
    refused(folder, name, "(47,)", "(48,)")
