"""Checkpoints against transformers, which writes them and computes the same logits by its own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.random_checkpoints import (
    LAYOUTS,
    assert_same_logits,
    edit_config,
    old_names,
    oracle,
    plain_folder,
    transformers,
)
from safetensors.torch import load_file

from ssm_tune.models.adapter_slots import LearnedTensor
from ssm_tune.models.pretrained import from_pretrained, load_checkpoint, model_hash, save_pretrained
from ssm_tune.utils.errors import UserError


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_logits_equal_transformers(write: Callable[[Any, Path], None], tmp_path: Path) -> None:
    model = oracle()
    write(model, tmp_path)
    assert_same_logits(tmp_path, model, write.__name__.removeprefix("write_"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"tie_word_embeddings": False},
        {"time_step_rank": 7},
        {"expand": 3},
        {"layer_norm_epsilon": 0.01},
        {"residual_in_fp32": False},
        {"hidden_size": 64, "state_size": 16, "conv_kernel": 4, "num_hidden_layers": 1},
    ],
    ids=str,
)
def test_every_size_and_choice_reaches_the_model(overrides: dict[str, Any], tmp_path: Path) -> None:
    model = oracle(**overrides)
    model.save_pretrained(tmp_path)
    assert_same_logits(tmp_path, model, str(overrides))


def test_norm_epsilon_matters_in_that_test(tmp_path: Path) -> None:
    model = oracle(layer_norm_epsilon=0.01)
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, layer_norm_epsilon=1e-5)
    with pytest.raises(AssertionError):
        assert_same_logits(tmp_path, model, "wrong epsilon")


def test_the_real_checkpoint_equals_transformers(shared: Path) -> None:
    real = shared / "models" / "mamba-25m"
    published = json.loads((real / "config.json").read_text())
    sizes = {
        "hidden_size": published["d_model"],
        "num_hidden_layers": published["n_layer"],
        "vocab_size": 8192,
    }
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).eval()
    state = {
        name.replace("backbone.embedding.", "backbone.embeddings."): value.float()
        for name, value in load_file(real / "model.safetensors").items()
    }
    state["lm_head.weight"] = state["backbone.embeddings.weight"]
    model.load_state_dict(state)
    assert_same_logits(real, model, "mamba-25m", vocabulary=8192)


# ---------------------------------------------------------------- dtypes, padding, hash, round trip


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_a_log_and_d_stay_wide(dtype: str, tmp_path: Path) -> None:
    oracle().to(torch.bfloat16).save_pretrained(tmp_path)
    named = {name: parameter.dtype for name, parameter in from_pretrained(tmp_path, dtype).named_parameters()}
    wide = {name for name in named if name.endswith((".A_log", ".D"))}
    narrow = getattr(torch, dtype)
    assert len(wide) == 6
    assert {named[name] for name in wide} == {torch.float64 if dtype == "float64" else torch.float32}
    assert {named[name] for name in named.keys() - wide} == {narrow}
    assert from_pretrained(tmp_path, narrow).dtype == narrow  # a torch.dtype means the same


def test_the_vocabulary_is_padded_to_the_multiple(tmp_path: Path) -> None:
    state = old_names(oracle().state_dict())
    assert load_checkpoint(plain_folder(tmp_path / "a", state))[0].vocab_size == 104  # from 101, multiple of 8
    exact = {**state, "backbone.embedding.weight": state["backbone.embedding.weight"][:102].clone()}
    config, _ = load_checkpoint(plain_folder(tmp_path / "b", exact, pad_vocab_size_multiple=2))
    assert config.vocab_size == 102
    with pytest.raises(UserError, match=r"pytorch_model.bin: tensor backbone.embedding.weight has shape \(102"):
        load_checkpoint(plain_folder(tmp_path / "c", exact))


def test_the_head_stays_tied_and_an_untied_one_apart(tmp_path: Path) -> None:
    oracle().save_pretrained(tmp_path / "tied")
    oracle(tie_word_embeddings=False).save_pretrained(tmp_path / "apart")
    tied, apart = from_pretrained(tmp_path / "tied"), from_pretrained(tmp_path / "apart")
    assert tied.lm_head.weight is tied.backbone.embedding.weight
    assert not torch.equal(apart.lm_head.weight, apart.backbone.embedding.weight)
    assert not tied.training


def test_safetensors_is_preferred_to_a_pickled_form(tmp_path: Path) -> None:
    model = oracle()
    model.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert_same_logits(tmp_path, model, "both forms")


def test_the_hash_depends_on_values_alone(tmp_path: Path) -> None:
    model = oracle()
    hashes = set()
    for write in LAYOUTS:
        write(model, tmp_path / write.__name__)
        hashes.add(model_hash(from_pretrained(tmp_path / write.__name__)))
    assert len(hashes) == 1
    ours = from_pretrained(tmp_path / "write_bin")
    assert model_hash(ours) in hashes
    narrow = from_pretrained(tmp_path / "write_bin", "bfloat16")
    assert model_hash(narrow) not in hashes
    assert narrow.checkpoint_hash in hashes
    ours.mixers[0].injection.state_offset = LearnedTensor(torch.ones(48, 5))  # what a method adds is not the base
    ours.prompt = LearnedTensor(torch.ones(2, 24))
    assert model_hash(ours) in hashes
    with torch.no_grad():
        ours.mixers[1].D[0] += 1e-6
    assert model_hash(ours) not in hashes


@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip(dtype: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    oracle(**overrides).save_pretrained(tmp_path / "a")
    first = from_pretrained(tmp_path / "a", dtype)
    save_pretrained(first, tmp_path / "b")
    second = from_pretrained(tmp_path / "b", dtype)
    assert second.config == first.config
    assert model_hash(second) == model_hash(first)
    assert {p.dtype for p in load_checkpoint(tmp_path / "b")[1].values()} == {p.dtype for p in first.parameters()}
