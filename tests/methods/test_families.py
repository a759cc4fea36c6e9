"""Methods on the second family: counts of the published sizes, defaults by family, options that a family lacks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from helpers.small_models import methods_of, small_model

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.config.compose import Composer, compose
from ssm_tune.config.groups import changed_options, family_of, method_section
from ssm_tune.config.variants import variant
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import Mamba2Config
from ssm_tune.utils.errors import UserError

SIZES = (Mamba2Config(768, 24, 50_288), Mamba2Config(2048, 48, 50_288))
"""mamba2-130m, mamba2-1.3b: D 1,536 and 4,096, N 128, 24 and 64 heads, one group."""
COUNTS = {
    "state_offset": (24 * 1536 * 128, 48 * 4096 * 128),
    "state_offset_y": (24 * 1536, 48 * 4096),
    "initial_state": (24 * 1536 * 128, 48 * 4096 * 128),
    "lora": (24 * 8 * (768 + 24 + 2 * (768 + 128)), 48 * 8 * (2048 + 64 + 2 * (2048 + 128))),
    "bitfit": (24 * (1536 + 256 + 24), 48 * (4096 + 256 + 64)),
    "partial": (24 * (3 * 24 + 5 * (1536 + 256)), 48 * (3 * 64 + 5 * (4096 + 256))),
    "combined": (
        24 * (1536 * 128 + 8 * (768 + 3352 + 1536 + 768)),
        48 * (4096 * 128 + 8 * (2048 + 8512 + 4096 + 2048)),
    ),
    "additional_scan": (24 * 2 * 8 * (768 + 4 + 1), 48 * 2 * 8 * (2048 + 4 + 1)),
    "prompt": (16 * 768, 16 * 2048),
    "prefix": (24 * 16 * 768, 48 * 16 * 2048),
    "full": (128_989_632, 1_343_757_312),
}
RANDOM = ["model=random", "model.family=mamba2", "task=samsum", "data=sample"]


@pytest.mark.parametrize("name", methods_of("mamba2"))
def test_counts_of_the_published_sizes(name: str) -> None:
    method = load_method(method_section(name, family="mamba2"))
    assert tuple(method.num_trainable_params(config) for config in SIZES) == COUNTS[name]


def test_a_default_is_the_familys_unless_the_option_is_given() -> None:
    usual = compose(["method=lora", *RANDOM]).method
    assert usual["targets"] == ["in_proj.dt", "in_proj.B", "in_proj.C"]
    assert not usual["published"]
    assert variant(usual) == "lora"
    assert compose(["method=lora", "task=samsum", "data=sample", "model=tiny"]).method["published"]
    given = ["method=lora", "method.targets=[out_proj]", *RANDOM]
    assert compose(given).method["targets"] == ["out_proj"]
    assert Composer().config(given).method == compose(given).method
    assert Composer().config(["method=lora", *RANDOM]).method == usual
    assert changed_options(method_section("state_offset", {"rank": 3}, "mamba2")) == {"rank": 3}


def test_the_family_of_a_folder_is_read_from_its_config(tmp_path: Path) -> None:
    section = {"source": "folder", "path": str(tmp_path), "family": None}
    assert family_of(section) == "mamba"  # whoever loads it says that nothing is there
    (tmp_path / "config.json").write_text(json.dumps({"ssm_cfg": {"layer": "Mamba2"}}))
    assert family_of(section) == "mamba2"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba", "ssm_cfg": {"layer": "Mamba2"}}))
    assert family_of(section) == "mamba"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lora", {"targets": ["in_proj", "x_proj.B"]}, ("x_proj.B", "a Mamba-2", "in_proj.B")),
        ("lora", {"targets": ["dt_proj"]}, ("dt_proj", "a Mamba-2")),
        ("lora", {"targets": ["in_proj", "in_proj.B"]}, ("in_proj", "part")),
        ("additional_scan", {"a_init": "s4d"}, ("a_init", "a Mamba-2")),
        ("state_offset", {"scale": 2.0}, ("scale", "rank")),
        ("state_offset", {"rank": 2, "scale": 0.0}, ("scale", "positive")),
    ],
)
def test_an_option_that_a_mamba2_lacks_is_refused_by_name(
    name: str, options: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        ssm_tune.attach(small_model(family="mamba2"), name, **options)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_option_that_a_mamba1_lacks_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"in_proj\.B.*a Mamba-1"):
        ssm_tune.attach(small_model(), "lora", targets=["in_proj.B"])
    with pytest.raises(UserError, match="a_init must be official or s4d"):
        ssm_tune.attach(small_model(), "additional_scan", a_init=None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["method=lora", "method.targets=[x_proj]"], ("x_proj", "a Mamba-2")),
        (["method=additional_scan", "method.a_init=official"], ("a_init=official",)),
        (["method=bitfit", "backend=mamba_ssm"], ("backend=mamba_ssm", "a Mamba-2")),
        (["method=bitfit", "model.d_model=40"], ("headdim", "80")),
        (["method=bitfit", "model.family=mamba3"], ("model.family", "mamba3")),
    ],
)
def test_a_run_with_it_ends_in_one_line(
    settings: list[str], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RANDOM, "model.tokenizer=tiny", *settings, f"output_dir={tmp_path}"]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert all(word in err[-1] for word in words), err


def test_the_sliced_update_of_in_proj_is_the_merged_weights(tmp_path: Path) -> None:
    """LoRA on parts of in_proj against a dense weight with B A added to those rows."""
    adapter = ssm_tune.attach(small_model(torch.float64, family="mamba2"), "lora", targets=["in_proj.x", "in_proj.C"])
    dense, tokens = small_model(torch.float64, family="mamba2"), torch.randint(64, (2, 9))
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        for mixer, own in zip(adapter.model.mixers, dense.mixers, strict=True):
            for part in ("x", "C"):
                rows = mixer.config.linear_maps[f"in_proj.{part}"]
                update = mixer.injection.updates["in_proj"].parts[part]
                own.in_proj.weight[rows.start : rows.end] += update.scale * (update.B @ update.A)
        assert torch.allclose(adapter.model.eval()(tokens), dense.eval()(tokens), atol=1e-9)


def test_scale_multiplies_a_low_rank_offset() -> None:
    plain, scaled = (small_model(torch.float64, family="mamba2") for _ in range(2))
    one = ssm_tune.attach(plain, "state_offset", rank=2)
    other = ssm_tune.attach(scaled, "state_offset", rank=2, scale=4.0)
    tokens = torch.randint(64, (2, 9))
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
            other.state[name].copy_(parameter / (4.0 if name.endswith("V") else 1.0))
        assert torch.allclose(plain(tokens), scaled(tokens), atol=1e-12)
    assert "scale" not in dataclasses.replace(one.method).options
