"""What a checkpoint may not be: each refusal is one line that names the file and the tensor or key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.random_checkpoints import (
    PLAIN,
    edit_config,
    old_names,
    oracle,
    plain_folder,
    write_bin,
    write_bin_legacy_format,
    write_safetensors,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_tune.models.checkpoint import read_tensors
from ssm_tune.models.pretrained import from_pretrained, model_hash
from ssm_tune.utils.errors import UserError


def refused(folder: Path, *names: str, load: Callable[..., Any] = from_pretrained) -> str:
    """Loading must end with one line that holds each of the names."""
    with pytest.raises(UserError) as caught:
        load(folder)
    message = str(caught.value)
    print(message)
    assert "\n" not in message
    for name in names:
        assert name in message
    return message


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    oracle().save_pretrained(folder, max_shard_size="20KB")
    return folder


@pytest.fixture
def hf(hf_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hf_folder, tmp_path / "hf"))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return plain_folder(tmp_path / "plain", old_names(oracle().state_dict()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "falcon_mamba"),
        ("hidden_act", "gelu"),
        ("use_bias", True),
        ("use_conv_bias", False),
        ("rms_norm", False),
        ("quantization_config", {"bits": 4}),
        ("intermediate_size", 50),
        ("expand", 1.5),
        ("hidden_size", "24"),
        ("hidden_size", True),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 10**9),
        ("vocab_size", "REMOVE"),
        ("time_step_rank", "half"),
        ("layer_norm_epsilon", "1e-5"),
        ("layer_norm_epsilon", -1),
        ("tie_word_embeddings", "yes"),
        ("ssm_cfg", {"layer": "Mamba2"}),
    ],
)
def test_a_config_of_transformers_is_refused_by_name(key: str, value: Any, hf: Path) -> None:
    edit_config(hf, **{key: value})
    refused(hf, "config.json", key)


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ("ssm_cfg", {"layer": "Mamba3"}, ("ssm_cfg.layer", "Mamba3")),
        ("ssm_cfg", {"bias": True}, ("ssm_cfg.bias",)),
        ("ssm_cfg", {"conv_bias": False}, ("ssm_cfg.conv_bias",)),
        ("ssm_cfg", {"headdim": 64}, ("ssm_cfg.headdim",)),
        ("ssm_cfg", {"d_state": "16"}, ("ssm_cfg.d_state",)),
        ("ssm_cfg", [], ("ssm_cfg",)),
        ("rms_norm", False, ("rms_norm",)),
        ("attn_layer_idx", [1], ("attn_layer_idx",)),
        ("d_intermediate", 64, ("d_intermediate",)),
        ("d_model", "REMOVE", ("d_model", "missing")),
        ("n_layer", -1, ("n_layer",)),
        ("pad_vocab_size_multiple", 0, ("pad_vocab_size_multiple",)),
        ("residual_in_fp32", 1, ("residual_in_fp32",)),
        ("moe_experts", 8, ("moe_experts",)),
    ],
)
def test_a_config_of_state_spaces_is_refused_by_name(key: str, value: Any, names: tuple[str, ...], plain: Path) -> None:
    edit_config(plain, **{key: value})
    refused(plain, "config.json", *names)


def test_what_changes_no_logit_is_taken(plain: Path) -> None:
    before = model_hash(from_pretrained(plain))
    ssm = {**PLAIN["ssm_cfg"], "layer": "Mamba1", "dt_rank": "auto", "dt_min": 0.01, "use_fast_path": False}
    edit_config(plain, ssm_cfg=ssm, fused_add_norm=True, attn_layer_idx=[], attn_cfg={}, d_intermediate=0)
    assert model_hash(from_pretrained(plain)) == before


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", '{"d_model": NaN}', "[" * 100_000, "\udcff"])
def test_a_malformed_config(content: str, plain: Path) -> None:
    (plain / "config.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    refused(plain, "config.json")


def test_a_missing_config(plain: Path) -> None:
    (plain / "config.json").unlink()
    refused(plain, "config.json", "missing")


def test_missing_weights(plain: Path) -> None:
    (plain / "pytorch_model.bin").unlink()
    refused(plain, str(plain), "no weights", "model.safetensors")


@pytest.mark.parametrize("name", ["layers.1.mixer.A_log", "embedding.weight", "norm_f.weight"])
def test_a_missing_tensor(name: str, plain: Path) -> None:
    state = torch.load(plain / "pytorch_model.bin", weights_only=True)
    del state[f"backbone.{name}"]
    torch.save(state, plain / "pytorch_model.bin")
    refused(plain, "pytorch_model.bin", name, "missing (1 of ")


def test_a_missing_head_of_an_untied_model(plain: Path) -> None:
    edit_config(plain, tie_embeddings=False)
    refused(plain, "pytorch_model.bin", "lm_head.weight", "missing")


def test_a_head_that_contradicts_the_tie(plain: Path) -> None:
    state = torch.load(plain / "pytorch_model.bin", weights_only=True)
    state["lm_head.weight"] = state["backbone.embedding.weight"] + 1
    torch.save(state, plain / "pytorch_model.bin")
    refused(plain, "pytorch_model.bin", "lm_head.weight", "differs from backbone.embedding.weight")


@pytest.mark.parametrize(
    ("name", "value", "names"),
    [
        ("backbone.layers.0.mixer.in_proj.bias", torch.zeros(96), ("no place",)),
        ("backbone.layers.3.norm.weight", torch.zeros(24), ("no place",)),
        ("backbone.layers.2.mixer.D", torch.zeros(47), ("(47,)", "(48,)")),
        ("backbone.layers.2.mixer.x_proj.weight", torch.zeros(48, 12), ("(48, 12)", "(12, 48)")),
        ("backbone.norm_f.weight", torch.zeros(24, dtype=torch.int8), ("int8",)),
        ("backbone.norm_f.weight", torch.zeros(24).to_sparse(), ("sparse",)),
        ("backbone.norm_f.weight", {"weight": torch.zeros(24)}, ("dict",)),
        ("backbone.embeddings.weight", torch.zeros(104, 24), ("twice",)),
    ],
)
def test_a_tensor_that_does_not_belong(name: str, value: Any, names: tuple[str, ...], plain: Path) -> None:
    state = torch.load(plain / "pytorch_model.bin", weights_only=True)
    torch.save({**state, name: value}, plain / "pytorch_model.bin")
    refused(plain, "pytorch_model.bin", name, *names)


@pytest.mark.parametrize(
    "write", [write_safetensors, write_bin, write_bin_legacy_format], ids=["safetensors", "zip", "legacy"]
)
def test_a_file_truncated_anywhere(
    write: Callable[[Any, Path], None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("truncated")
    write(oracle(), folder)
    (file,) = (path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    whole = file.read_bytes()

    @settings(max_examples=60, deadline=None)
    @given(st.one_of(st.integers(0, 3000), st.integers(0, len(whole) - 1)))
    def check(length: int) -> None:
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=file.name) as caught:
            read_tensors(folder)
        assert "\n" not in str(caught.value)

    check()
    refused(folder, file.name)


def test_a_bin_of_something_else(plain: Path) -> None:
    torch.save([torch.zeros(3)], plain / "pytorch_model.bin")
    refused(plain, "pytorch_model.bin", "list")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_does_not_run(
    zipped: bool, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # must not open the door either
    target, file = tmp_path / "it-ran", plain / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "extra": Bomb(target)}, file, _use_new_zipfile_serialization=zipped)
    refused(plain, "pytorch_model.bin", "holds pickled code")
    assert not target.exists()
    torch.load(file, weights_only=False)  # the bomb is live: the check above can fail
    assert target.exists()


def test_a_whole_pickled_module_is_refused(plain: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), plain / "pytorch_model.bin")
    refused(plain, "pytorch_model.bin", "holds pickled code")


def test_shards(hf: Path) -> None:
    index = hf / "model.safetensors.index.json"
    shard = sorted(hf.glob("model-*.safetensors"))[1]
    content = json.loads(index.read_text())
    held = shard.read_bytes()
    shard.unlink()
    refused(hf, shard.name, "missing")
    shard.write_bytes(held[:-1])
    refused(hf, shard.name, "truncated")
    shard.write_bytes(held)
    from_pretrained(hf)
    name = next(name for name, file in content["weight_map"].items() if file == shard.name)
    for bad in ("../elsewhere.safetensors", str(shard), "run.py", 3):
        index.write_text(json.dumps({"weight_map": {**content["weight_map"], name: bad}}))
        refused(hf, index.name)
    for text in ("{", "{}", '{"weight_map": []}', '{"weight_map": {}}'):
        index.write_text(text)
        refused(hf, index.name)


@pytest.mark.parametrize("dtype", ["int8", "float", torch.int64, None])
def test_an_unknown_dtype(dtype: Any, plain: Path) -> None:
    refused(plain, "dtype", "bfloat16", load=lambda folder: from_pretrained(folder, dtype))


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there(device: str, plain: Path) -> None:
    refused(plain, f"device={device}", load=lambda folder: from_pretrained(folder, device=device))
