"""Adapters as peft handles them: which layers, saving, loading, resuming, adding up, refusing."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.hub_server import Client, Repository, serving
from helpers.peft_features import close, fill, fresh, logits, tuned
from helpers.peft_models import small_model, tokens
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.utils import PeftType
from torch import nn

from ssm_tune.peft import AdditionalScanConfig, InitialStateConfig, StateOffsetConfig, registration
from ssm_tune.peft.recurrent_layer import RecurrentLayer

IDS = tokens(2, 9)


def layers(model: nn.Module) -> list[int]:
    return [layer.mixer.layer for layer in model.modules() if isinstance(layer, RecurrentLayer)]


def test_layers_to_transform_count_as_the_model_does() -> None:
    assert layers(tuned("Bamba")) == [0, 2]
    assert layers(tuned("Bamba", layers_to_transform=2)) == [2]
    assert layers(tuned("FalconH1", layers_to_transform=[1])) == [1]
    with pytest.raises(ValueError, match=r"no recurrent layers.*\[0, 2\]"):
        tuned("Bamba", layers_to_transform=[1, 2])


def test_target_modules_choose_among_the_mixers() -> None:
    assert layers(tuned("Mamba", target_modules=["layers.1.mixer"])) == [1]
    assert layers(tuned("Mamba", target_modules=r".*\.0\.mixer")) == [0]
    with pytest.raises(ValueError, match="names no recurrent mixer"):
        tuned("Bamba", target_modules=["q_proj"])


def test_the_counts_are_the_documented_ones() -> None:
    def count(config: Any, name: str = "Mamba2") -> int:
        model = get_peft_model(fresh(name), config)
        trained, _ = model.get_nb_trainable_parameters()
        return int(trained)

    D, N, n_layer = 64, 16, 2
    assert count(StateOffsetConfig()) == n_layer * D * N
    assert count(StateOffsetConfig(rank=3)) == n_layer * 3 * (D + N)
    assert count(StateOffsetConfig(offset="y")) == n_layer * D
    assert count(InitialStateConfig()) == n_layer * D * N
    assert count(AdditionalScanConfig(states=5), "Mamba") == n_layer * 3 * 5 * D


def test_alpha_scales_the_offset() -> None:
    plain, scaled = tuned("Mamba2", StateOffsetConfig(rank=2)), tuned("Mamba2", StateOffsetConfig(rank=2, alpha=6))
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "state_offset_V" in name:
                parameter.mul_(3)
    close(logits(scaled, IDS), logits(plain, IDS))


def test_modules_to_save_are_trained_and_saved(tmp_path: Path) -> None:
    model = tuned("Mamba2", StateOffsetConfig(rank=2, modules_to_save=["norm_f"]))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh("Mamba2"), tmp_path)
    assert any("norm_f" in name for name in safetensors.torch.load_file(tmp_path / "adapter_model.safetensors"))
    close(logits(loaded, IDS), logits(model, IDS))


def test_a_saved_adapter_is_small_and_plain(tmp_path: Path) -> None:
    model = tuned("FalconH1")
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    saved = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == get_peft_model_state_dict(model).keys()
    assert {tuple(tensor.shape) for tensor in saved.values()} == {(64, 2), (2, 16)}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "STATE_OFFSET"
    assert config["rank"] == 2
    assert config["target_modules"] is None


@pytest.mark.slow
def test_a_hub_repository_is_loaded(tmp_path: Path) -> None:
    model = tuned("Mamba2")
    model.save_pretrained(tmp_path)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    code = (
        "import sys\nfrom helpers.peft_features import *\nfrom ssm_tune.peft import StateOffsetConfig\n"
        "loaded = PeftModel.from_pretrained(fresh('Mamba2'), 'someone/my-offset')\n"
        "assert torch.equal(logits(loaded, tokens(2, 9)), "
        "logits(tuned('Mamba2').requires_grad_(False), tokens(2, 9)))\n"
    )
    with serving({("model", "someone/my-offset"): Repository(files)}) as server:
        client = Client(tmp_path / "hub", server.endpoint)
        status, _, err = client.run(code, PYTHONPATH=str(Path(__file__).parents[1]))
    assert status == 0, err


def test_training_goes_on_from_a_saved_adapter(tmp_path: Path) -> None:
    def steps(model: Any, count: int) -> None:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(count):
            optimizer.zero_grad()
            model.train()(IDS, labels=IDS).loss.backward()
            optimizer.step()

    whole, half = tuned("Mamba2"), tuned("Mamba2")
    steps(whole, 4)
    steps(half, 2)
    half.save_pretrained(tmp_path)
    resumed = PeftModel.from_pretrained(fresh("Mamba2"), tmp_path, is_trainable=True)
    steps(resumed, 2)
    close(logits(resumed.eval(), IDS), logits(whole.eval(), IDS))


@pytest.mark.parametrize("config", [StateOffsetConfig(rank=2), StateOffsetConfig(offset="y"), InitialStateConfig()])
def test_adapters_add_up(config: Any) -> None:
    model = tuned("Jamba", config)
    model.add_adapter("other", copy.copy(config))
    model.set_adapter("other")
    fill(model, seed=5)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model, IDS)
    model.add_weighted_adapter(["default", "other"], [2.0, -1.0], "difference")
    model.add_weighted_adapter(["difference", "other"], [0.5, 1.5], "sum")
    model.set_adapter("sum")
    close(logits(model, IDS), both)


def test_adapters_that_do_not_add_up_are_refused() -> None:
    model = tuned("Mamba")
    model.add_adapter("y", StateOffsetConfig(offset="y"))
    for adapters, weights, words in (
        (["default", "y"], [1.0, 1.0], "do not add up"),
        (["default"], [1.0, 2.0], "as many weights"),
        (["default", "none"], [1.0, 1.0], "no adapter 'none'"),
    ):
        with pytest.raises(ValueError, match=words):
            model.add_weighted_adapter(adapters, weights, "new")
    with pytest.raises(ValueError, match="already"):
        model.add_weighted_adapter(["default"], [1.0], "y")
    with pytest.raises(ValueError, match="do not add up"):
        tuned("Mamba", AdditionalScanConfig(states=2)).add_weighted_adapter(["default"], [1.0], "new")


def test_copies_and_pickles_are_models_of_their_own() -> None:
    model = tuned("FalconH1")
    expected = logits(model, IDS)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    fill(model, seed=9)
    for one in copies:
        assert torch.equal(logits(one, IDS), expected)
    assert not torch.allclose(logits(model, IDS), expected)


def test_a_configuration_serves_several_models() -> None:
    config = StateOffsetConfig(rank=2)
    get_peft_model(fresh("Mamba"), config)
    get_peft_model(fresh("Mamba2"), config)
    assert config.trained_on is None


def test_a_cache_of_another_adapter_is_refused() -> None:
    model = tuned("Mamba", AdditionalScanConfig(states=2))
    with model.disable_adapter():
        cache = model(IDS, use_cache=True).cache_params
    with pytest.raises(ValueError, match="the cache holds"), torch.no_grad():
        model(IDS[:, :1], cache_params=cache, use_cache=True)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rank": 0}, ValueError, "at least 1"),
        ({"rank": 2.0}, TypeError, "whole number"),
        ({"rank": 17}, ValueError, "at most 16"),
        ({"rank": 2, "offset": "y"}, ValueError, "rank is for"),
        ({"offset": "x"}, ValueError, "offset must be"),
        ({"alpha": 0}, ValueError, "finite number other than 0"),
        ({"alpha": "8"}, TypeError, "alpha must be a number"),
        ({"layers_to_transform": "all"}, TypeError, "layers_to_transform"),
        ({"layers_to_transform": []}, TypeError, "layers_to_transform"),
        ({"target_modules": []}, ValueError, "target_modules is empty"),
        ({"target_modules": 3}, TypeError, "target_modules"),
        ({"init_weights": "gaussian"}, TypeError, "init_weights"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        get_peft_model(fresh("Mamba2"), StateOffsetConfig(**options))


def test_bad_options_of_additional_scan_are_named() -> None:
    for options, words in (({"states": 0}, "at least 1"), ({"a_init": "zero"}, "a_init must be")):
        with pytest.raises(ValueError, match=words):
            AdditionalScanConfig(**options)


def test_a_model_without_recurrent_layers_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))
    with pytest.raises(ValueError, match="LlamaForCausalLM has no recurrent layer"):
        get_peft_model(model, StateOffsetConfig())


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    tuned("Mamba2").save_pretrained(tmp_path)
    narrow, deep = small_model("Mamba2", state_size=8), small_model("Mamba2", num_hidden_layers=3)
    for other in (fresh("Mamba"), fresh("Bamba"), narrow, deep):
        with pytest.raises(ValueError, match=r"trained on Mamba2Mixer with 64 channels and 16 states in layers 0, 1"):
            PeftModel.from_pretrained(other, tmp_path)


def test_a_quantised_weight_that_transformers_reads_is_refused() -> None:
    model = fresh("Mamba")
    mixer = model.backbone.layers[1].mixer
    mixer.dt_proj.weight = nn.Parameter(mixer.dt_proj.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"dt_proj is quantised.*skip_modules"):
        get_peft_model(model, StateOffsetConfig())


def test_packed_rows_are_refused_with_an_initial_state() -> None:
    model = tuned("Mamba2", InitialStateConfig())
    layer = next(layer for layer in model.modules() if isinstance(layer, RecurrentLayer))
    with pytest.raises(ValueError, match="packed"):
        layer(torch.zeros(1, 4, 32), seq_idx=torch.zeros(1, 4))


def test_a_changed_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.mamba2 import modeling_mamba2

    monkeypatch.setattr(modeling_mamba2, "mamba2_chunk_scan", lambda hidden_states, step: None)
    with pytest.raises(ValueError, match=r"mamba2_chunk_scan takes hidden_states, step.*does not know transformers"):
        get_peft_model(fresh("Mamba2"), StateOffsetConfig())


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise registration.PackageNotFoundError(package)

    monkeypatch.setattr(registration, "version", missing)
    with pytest.raises(ImportError, match=r"needs transformers>=5.15.*ssm-tune\[peft\]"):
        registration.require_versions()
    monkeypatch.setattr(registration, "version", lambda package: "5.14.1")
    with pytest.raises(ImportError, match=r"found 5\.14\.1"):
        registration.require_versions()


def test_registering_again_does_nothing_and_a_name_of_pefts_own_is_refused() -> None:
    from ssm_tune.peft import StateOffsetModel

    registration.register("state_offset", StateOffsetConfig, StateOffsetModel)
    assert PeftType("STATE_OFFSET") is PeftType.STATE_OFFSET
    assert "STATE_OFFSET" in list(PeftType)
    with pytest.raises(ImportError, match="method lora of its own"):
        registration.register("lora", StateOffsetConfig, StateOffsetModel)


def test_pefts_own_methods_work_as_before() -> None:
    model = get_peft_model(fresh("Mamba2"), LoraConfig(target_modules=["in_proj"], task_type=TaskType.CAUSAL_LM))
    model.train()(IDS, labels=IDS).loss.backward()
    assert any(p.grad is not None for p in model.parameters())
