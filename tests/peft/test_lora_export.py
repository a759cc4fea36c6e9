"""``ssm-tune export --peft`` of low-rank updates: peft's own LoRA on transformers' model gives the same logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.peft_features import close, fill, logits
from helpers.peft_models import small_model
from peft import PeftModel

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.models.source import EMBEDDED

IDS = torch.randint(64, (2, 13), generator=torch.Generator().manual_seed(1))
CASES: list[tuple[str, dict[str, Any]]] = [
    ("Mamba", {"targets": ["in_proj", "x_proj"]}),
    ("Mamba", {"targets": ["in_proj.z", "x_proj.C", "x_proj.dt"], "alpha": 12}),
    ("Mamba", {"targets": ["in_proj.x", "x_proj"], "use_dora": True}),
    ("Mamba", {"targets": ["in_proj"], "init": "pissa"}),
    ("Mamba2", {"targets": ["in_proj"]}),
    ("Mamba2", {"targets": ["in_proj.x", "in_proj.B", "in_proj.dt"], "use_dora": True, "init": "pissa"}),
]


def exported(architecture: str, options: dict[str, Any], folder: Path) -> tuple[int, Any, Any]:
    """The exit status of the export, the adapter, and transformers' model."""
    theirs = small_model(architecture, vocab_size=2048).requires_grad_(False)
    theirs.save_pretrained(folder / "base")
    shutil.copy(EMBEDDED / "tiny" / "tokenizer.json", folder / "base")
    adapter = ssm_tune.attach(ssm_tune.from_pretrained(folder / "base"), "lora", **{"rank": 3, **options})
    fill(adapter.model, size=0.2)
    model = {"name": "base", "source": "folder", "path": str(folder / "base"), "revision": None, "tokenizer": None,
             "tokenizer_revision": None, "dtype": "float32", "hash": None}  # fmt: skip
    adapter.save(folder / "run" / "adapter", {"model": model, "decode": {}})
    return main(["export", str(folder / "run"), "--peft", "--to", str(folder / "peft")]), adapter, theirs


@pytest.mark.parametrize(("architecture", "options"), CASES)
def test_peft_gives_the_same_logits(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    status, adapter, theirs = exported(architecture, options, tmp_path)
    assert status == 0
    with torch.no_grad():
        expected, plain = adapter.model.eval()(IDS), logits(theirs.eval(), IDS)
    model = PeftModel.from_pretrained(theirs, tmp_path / "peft").eval()
    close(logits(model, IDS), expected)
    close(logits(model.merge_and_unload(), IDS), expected)
    assert (expected - plain).abs().max() > 1e-2 * plain.abs().max()
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["use_dora"] == ("use_dora" in options)


@pytest.mark.parametrize(
    ("targets", "name", "why"),
    [(["in_proj", "out_proj"], "out_proj", "peft refuses"), (["dt_proj"], "dt_proj", "would do nothing")],
)
def test_what_peft_cannot_hold_is_refused_by_name(
    targets: list[str], name: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported("Mamba", {"targets": targets}, tmp_path)[0] == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert f"lora on {name}" in line
    assert why in line
    assert not (tmp_path / "peft").exists()
