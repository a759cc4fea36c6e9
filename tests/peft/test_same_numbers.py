"""The same weights, adapter and batch give the runner's logits and gradients; adapters pass both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.peft_features import close, fill, logits
from helpers.peft_models import small_model, tokens
from peft import PeftModel, get_peft_model

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.peft import AdditionalScanConfig, InitialStateConfig, StateOffsetConfig
from ssm_tune.utils.errors import UserError

FAMILIES = ("Mamba", "Mamba2")
"""Models of transformers that the runner has too."""
METHODS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "h'": ("state_offset", {}, StateOffsetConfig()),
    "h' of a rank": ("state_offset", {"rank": 3}, StateOffsetConfig(rank=3)),
    "y'": ("state_offset_y", {}, StateOffsetConfig(offset="y")),
    "initial state": ("initial_state", {}, InitialStateConfig()),
    "additional scan": (
        "additional_scan",
        {"states": 2, "a_init": "s4d"},
        AdditionalScanConfig(states=2),
    ),
}
IDS = tokens(3, 14)


def loss_of(found: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(found[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten())


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """A model of transformers, and the folder that it was saved to."""
    if request.param == "Mamba2" and "additional scan" in request.node.name:
        pytest.skip("ssm_tune.peft has no additional scan on Mamba-2")
    model = small_model(request.param).requires_grad_(False)
    model.save_pretrained(tmp_path / "base")
    return model, tmp_path / "base"


def run_folder(adapter: Any, base: Path, folder: Path) -> Path:
    """An adapter as a run leaves it."""
    model = {"name": "base", "source": "folder", "path": str(base), "revision": None, "dtype": "float32", "hash": ""}
    adapter.save(folder / "adapter", {"model": model, "decode": {}})
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_logits_and_gradients_are_the_runners(method: str, base: tuple[Any, Path], tmp_path: Path) -> None:
    theirs, folder = base
    name, options, _ = METHODS[method]
    adapter = ssm_tune.attach(ssm_tune.from_pretrained(folder), name, **options)
    fill(adapter.model)
    run = run_folder(adapter, folder, tmp_path / "run")
    assert main(["export", str(run), "--peft", "--to", str(tmp_path / "peft")]) == 0
    model = PeftModel.from_pretrained(theirs, tmp_path / "peft", is_trainable=True).eval()
    expected, found = adapter.model(IDS), model(IDS).logits
    close(found, expected.float())
    loss_of(expected).backward()
    loss_of(found).backward()
    ours = {name.split(".injection.")[0]: [] for name, _ in adapter.named_parameters()}
    for parameter_name, parameter in adapter.named_parameters():
        ours[parameter_name.split(".injection.")[0]].append(parameter.grad)
    for block, gradients in ours.items():
        trained = [p.grad for key, p in model.named_parameters() if p.requires_grad and f"{block}." in key]
        assert len(trained) == len(gradients)
        for gradient in gradients:
            closest = [one for one in trained if one.shape == gradient.shape]
            assert min(((one - gradient).abs().max() / gradient.abs().max()).item() for one in closest) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_what_peft_wrote_is_read(method: str, base: tuple[Any, Path], tmp_path: Path) -> None:
    theirs, folder = base
    model = get_peft_model(theirs, METHODS[method][2]).eval()
    fill(model)
    model.save_pretrained(tmp_path / "peft")
    ours = ssm_tune.from_pretrained(folder)
    ssm_tune.load_adapter(ours, tmp_path / "peft")
    with torch.no_grad():
        close(ours(IDS), logits(model, IDS))


def test_alpha_is_read(base: tuple[Any, Path], tmp_path: Path) -> None:
    theirs, folder = base
    model = get_peft_model(theirs, StateOffsetConfig(rank=2, alpha=5)).eval()
    fill(model)
    model.save_pretrained(tmp_path / "peft")
    ours = ssm_tune.from_pretrained(folder)
    ssm_tune.load_adapter(ours, tmp_path / "peft")
    with torch.no_grad():
        close(ours(IDS), logits(model, IDS))


def test_generate_answers_with_what_peft_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = ssm_tune.attach(ssm_tune.from_pretrained("tiny"), "state_offset", rank=2)
    adapter.save(tmp_path / "run", {"model": {"path": "tiny", "revision": None}})
    assert main(["export", str(tmp_path / "run"), "--peft", "--to", str(tmp_path / "peft")]) == 0
    command = ["generate", "--adapter", str(tmp_path / "peft"), "--prompt", "Anna: Hi", "--max-new-tokens", "3"]
    assert main(command) == 0
    assert capsys.readouterr().out.count("\n") >= 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "LORA"}, "LORA"),
        ({"peft_type": None}, "None"),
        ({"alpha": "x"}, "alpha must be a number"),
        ({"offset": ...}, "lacks 'offset'"),
    ],
)
def test_adapters_that_ssm_tune_has_not_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = get_peft_model(small_model("Mamba"), StateOffsetConfig(rank=2))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | change
    kept = {key: value for key, value in config.items() if value is not ...}
    (tmp_path / "adapter_config.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=words):
        ssm_tune.load_adapter(ssm_tune.from_pretrained("tiny"), tmp_path)


def test_a_base_model_that_is_not_named_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get_peft_model(small_model("Mamba"), StateOffsetConfig(rank=2)).save_pretrained(tmp_path)
    assert main(["generate", "--adapter", str(tmp_path), "--prompt", "Hi"]) == 2
    assert "base_model_name_or_path" in capsys.readouterr().err


def test_methods_that_peft_has_not_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ssm_tune.attach(ssm_tune.from_pretrained("tiny"), "prefix").save(tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--peft", "--to", str(tmp_path / "peft")]) == 2
    assert "prefix is no method of ssm_tune.peft" in capsys.readouterr().err
