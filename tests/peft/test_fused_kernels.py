"""Where packages bring kernels for a whole mixer, a tuned mixer does not train through them."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from typing import Any

import pytest
import torch
from helpers.peft_features import fill, fresh
from helpers.peft_models import small_model, tokens
from peft import get_peft_model

from ssm_tune.peft import StateOffsetConfig

INNER = {"mamba": "mamba_inner_fn", "falcon_h1": "mamba2_split_conv1d_scan_combined"}
MODEL = {"mamba": "Mamba", "falcon_h1": "FalconH1"}
SCAN = {"mamba": "mamba_selective_scan", "falcon_h1": "mamba2_chunk_scan"}


class Calls(dict[str, int]):
    def counting(self, name: str, function: Any) -> Any:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self[name] = self.get(name, 0) + 1
            return function(*args, **kwargs)

        return counted


@pytest.fixture(params=INNER)
def stand_ins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Calls]:
    """A model's module with stand-ins: a kernel for the whole mixer, which knows no adapter, and one for the scan."""
    module = importlib.import_module(f"transformers.models.{request.param}.modeling_{request.param}")
    calls = Calls()

    def whole_mixer(projected: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows = projected.transpose(1, 2) if request.param == "mamba" else projected
        return rows[..., :32] * 1.5

    monkeypatch.setattr(module, INNER[request.param], calls.counting("whole", whole_mixer))
    monkeypatch.setattr(module, SCAN[request.param], calls.counting("scan", getattr(module, SCAN[request.param])))
    return MODEL[request.param], calls


def test_training_hears_the_adapter(stand_ins: tuple[str, Calls]) -> None:
    name, calls = stand_ins
    ids, base = tokens(2, 6), fresh(name).train()
    base(ids, use_cache=False)
    assert calls == {"whole": 2}, "the stand-in is not used"
    calls.clear()
    model = get_peft_model(base, StateOffsetConfig()).train()
    before = model(ids, labels=ids, use_cache=False).loss
    fill(model)
    after = model(ids, labels=ids, use_cache=False).loss
    after.backward()
    assert "whole" not in calls
    assert calls["scan"] == 4
    assert after.item() != before.item()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


def test_without_adapter_the_kernel_is_used_as_before(stand_ins: tuple[str, Calls]) -> None:
    name, calls = stand_ins
    model = get_peft_model(fresh(name), StateOffsetConfig()).train()
    with model.disable_adapter():
        model(tokens(2, 6), use_cache=False)
    assert calls == {"whole": 2}


def test_a_package_that_is_installed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes an installed mamba_ssm's scan when its module is imported, and a tuned mixer uses it."""
    used: list[str] = []
    name = "transformers.models.mamba.modeling_mamba"
    original = importlib.import_module(name)

    def selective_scan_fn(*args: Any, **kwargs: Any) -> Any:
        used.append("scan")
        return original.mamba_selective_scan(*args, **kwargs)

    package = types.ModuleType("mamba_ssm")
    package.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    package.mamba_inner_fn = lambda *args, **kwargs: used.append("whole")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mamba_ssm", package)
    monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module(name)
    base = small_model("Mamba")
    again = module.MambaForCausalLM(base.config)
    again.load_state_dict(base.state_dict())
    model = get_peft_model(again, StateOffsetConfig()).train()
    fill(model)
    model(tokens(2, 5))
    if used:  # the paths inside the package that transformers looks under differ between versions
        assert set(used) == {"scan"}
    else:
        pytest.skip("transformers looks for the package's scan elsewhere")
