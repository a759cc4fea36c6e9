"""Adapters leave the tool whole: as a folder that the API loads, or merged into weights that transformers runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.config.groups import method_section, names
from ssm_tune.methods.base import Adapter, load_method
from ssm_tune.models.pretrained import from_pretrained

MERGEABLE = ("additional_scan", "bitfit", "full", "lora")
IDS = torch.randint(0, 900, (2, 17), generator=torch.Generator().manual_seed(1))


def tuned(method: str, **options: object) -> Adapter:
    """A tiny model with an adapter that is no identity any more."""
    adapter = ssm_tune.attach(from_pretrained("tiny"), method, **options)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return adapter


def saved(adapter: Adapter, folder: Path) -> Path:
    """As a run leaves it."""
    model = {"name": "tiny", "source": "embedded", "path": "tiny", "revision": None, "tokenizer": "tiny",
             "tokenizer_revision": None, "dtype": "float32",
             "hash": from_pretrained("tiny").checkpoint_hash}  # fmt: skip
    adapter.save(folder / "adapter", {"model": model, "decode": {}})
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out = model.eval()(IDS)
    return out if isinstance(out, torch.Tensor) else out.logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("method", "options"),
    [(name, {}) for name in MERGEABLE] + [("lora", {"targets": ["in_proj", "x_proj", "out_proj"], "alpha": 16})],
)
def test_transformers_and_model_local_give_the_merged_models_logits(
    method: str, options: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    adapter, target = tuned(method, **options), tmp_path / "merged"
    run = saved(adapter, tmp_path / "run")
    assert main(["export", str(run), "--merge", "--to", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    expected = logits(adapter.model)
    theirs, loading = transformers.MambaForCausalLM.from_pretrained(
        target, dtype=torch.float32, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    scale = expected.abs().max()
    assert (logits(theirs) - expected).abs().max() / scale < 1e-5
    assert (logits(from_pretrained(target)) - expected).abs().max() / scale < 1e-5
    assert (logits(from_pretrained("tiny")) - expected).abs().max() / scale > 1e-3  # the adapter does something
    text = "Anna: Shall we go?###"
    assert transformers.AutoTokenizer.from_pretrained(target)(text)["input_ids"] == ssm_tune.load_tokenizer(
        target
    ).encode(text)


@pytest.mark.parametrize("method", names("method"))
def test_every_adapter_is_exported_and_loads(method: str, tmp_path: Path) -> None:
    adapter = tuned(method)
    run = saved(adapter, tmp_path / "run")
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
    fresh = ssm_tune.load_adapter(from_pretrained("tiny"), tmp_path / "out")
    assert torch.equal(logits(fresh.model), logits(adapter.model))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter.json", "adapter.safetensors"]


@pytest.mark.parametrize("method", sorted(set(names("method")) - set(MERGEABLE)))
def test_what_no_weight_can_hold_is_refused_with_the_reason(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = load_method(method_section(method)).unmergeable_reason
    assert reason
    run = saved(tuned(method), tmp_path / "run")
    assert main(["export", str(run), "--merge", "--to", str(tmp_path / "out")]) == 2
    assert f"{method} has no equal in plain weights: {reason}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_no_adapter_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nowhere"), "--to", str(tmp_path / "new")]) == 2
    assert "is no adapter: adapter.json is missing" in capsys.readouterr().err
