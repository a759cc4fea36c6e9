"""Adapters leave the tool whole: as a folder that the API loads, or merged into weights that transformers runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.small_models import methods_of

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.config.groups import FAMILIES, method_section, names
from ssm_tune.methods.adapter import Adapter
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import Mamba2Config
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.pretrained import from_pretrained, save_pretrained
from ssm_tune.models.source import EMBEDDED

MERGEABLE = [name for name in names("method") if load_method(method_section(name)).unmergeable_reason is None]
MERGES = [
    *((family, name, {}) for family in FAMILIES for name in methods_of(family) if name in MERGEABLE),
    ("mamba", "lora", {"targets": ["in_proj", "x_proj", "out_proj"], "alpha": 16}),
    ("mamba2", "lora", {"targets": ["in_proj.z", "in_proj.dt", "out_proj"], "alpha": 16}),
    ("mamba", "lora", {"targets": ["all"], "use_dora": True}),
    ("mamba", "lora", {"targets": ["in_proj.x", "x_proj.B"], "use_dora": True, "init": "pissa"}),
    ("mamba2", "lora", {"targets": ["all"], "init": "pissa"}),
]
IDS = torch.randint(0, 900, (2, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mamba2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random Mamba-2 with the embedded model's tokenizer."""
    folder = tmp_path_factory.mktemp("mamba2")
    config = Mamba2Config(64, 2, from_pretrained("tiny").config.vocab_size, headdim=16, ngroups=2, d_state=16)
    save_pretrained(init_weights(Mamba(config), 0), folder)
    shutil.copy(EMBEDDED / "tiny" / "tokenizer.json", folder)
    return folder


def tuned(method: str, base: str | Path = "tiny", **options: object) -> Adapter:
    """A small model with an adapter that is no identity any more."""
    adapter = ssm_tune.attach(from_pretrained(base), method, **options)
    adapter.method.finish_warmup(adapter.model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return adapter


def saved(adapter: Adapter, folder: Path, base: str | Path = "tiny") -> Path:
    """As a run leaves it."""
    model = {"name": "tiny", "source": "embedded" if base == "tiny" else "folder", "path": str(base), "revision": None,
             "tokenizer": str(base), "tokenizer_revision": None, "dtype": "float32",
             "hash": from_pretrained(base).checkpoint_hash}  # fmt: skip
    adapter.save(folder / "adapter", {"model": model, "decode": {}})
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out = model.eval()(IDS)
    return out if isinstance(out, torch.Tensor) else out.logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("family", "method", "options"), MERGES)
def test_transformers_and_model_local_give_the_merged_models_logits(
    family: str,
    method: str,
    options: dict[str, object],
    tmp_path: Path,
    mamba2: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    transformers = pytest.importorskip("transformers")
    base = "tiny" if family == "mamba" else mamba2
    adapter, target = tuned(method, base, **options), tmp_path / "merged"
    run = saved(adapter, tmp_path / "run", base)
    assert main(["export", str(run), "--merge", "--to", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    expected = logits(adapter.model)
    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(
        target, dtype=torch.float32, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    scale = expected.abs().max()
    assert (logits(theirs) - expected).abs().max() / scale < 1e-5
    assert (logits(from_pretrained(target)) - expected).abs().max() / scale < 1e-5
    assert (logits(from_pretrained(base)) - expected).abs().max() / scale > 1e-3  # the adapter does something
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
