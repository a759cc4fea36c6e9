"""The runner's own scans in transformers' mixers, against transformers' scan with the adapter's terms beside it.

On a CPU the scans are plain PyTorch, called as their kernels are.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.peft_features import close, fill, fresh, logits, stepwise, tuned
from helpers.peft_models import MAMBA1, MAMBA2, WITH_LEAST_STEP, small_model, tokens
from peft import get_peft_model
from torch import Tensor
from transformers import DynamicCache

from ssm_tune.peft import InitialStateConfig, StateOffsetConfig, recurrent_layer
from ssm_tune.peft.fast_path import fits_mamba2
from ssm_tune.peft.recurrent_layer import RecurrentLayer

METHODS = {
    "h": StateOffsetConfig(),
    "rank": StateOffsetConfig(rank=2, alpha=3),
    "y": StateOffsetConfig(offset="y"),
    "start": InitialStateConfig(),
}


def take_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent_layer, "mamba1_kernels_run", lambda x, A: True)
    monkeypatch.setattr(recurrent_layer, "mamba2_kernels_run", lambda x, states: True)


def paths(model: Any) -> set[str]:
    return {layer.path for layer in model.modules() if isinstance(layer, RecurrentLayer)}


def small(name: str, config: Any) -> Any:
    """A model with a random adapter, with a least step size that bounds many steps where it has one."""
    changes = {"time_step_min": 0.6} if name in WITH_LEAST_STEP else {}
    model = get_peft_model(small_model(name, **changes).requires_grad_(False), config)
    fill(model)
    return model.eval()


def padded(left: int, right: int) -> tuple[Tensor, Tensor]:
    ids, mask = tokens(2, 19), torch.ones(2, 19, dtype=torch.long)
    mask[0, :left] = 0
    mask[1, 19 - right :] = 0
    return ids, mask


def gradients(model: Any, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    model.zero_grad()
    model(ids, labels=ids, attention_mask=mask).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]


def in_chunks(model: Any, ids: Tensor) -> Tensor:
    """The logits of a prefill, a second chunk and a step, with one cache."""
    cache = DynamicCache(config=model.get_base_model().config)
    key = "cache_params" if type(model.get_base_model()).__name__ == "Mamba2ForCausalLM" else "past_key_values"
    parts = ids.split([7, 11, 1], dim=1)
    return torch.cat([logits(model, part, use_cache=True, **{key: cache}) for part in parts], dim=1)


@pytest.mark.parametrize("name", [*MAMBA1, *MAMBA2])
@pytest.mark.parametrize("method", METHODS)
def test_the_runners_scan_gives_the_same(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, gradients, padding on both sides, and a cache."""
    model = small(name, METHODS[method])

    def numbers() -> list[Tensor]:
        found = []
        for ids, mask in (padded(0, 0), padded(3, 0), padded(0, 4), padded(5, 2)):
            found += [logits(model, ids, attention_mask=mask)[mask == 1], *gradients(model, ids, mask)]
            assert paths(model) == {path}
        found.append(stepwise(model, ids, 4))
        return [*found, in_chunks(model, ids)] if name in MAMBA2 else found

    path = "transformers"
    expected = numbers()
    take_the_fast_path(monkeypatch)
    path = "ssm_tune kernels"
    for one, other in zip(numbers(), expected, strict=True):
        close(one, other, 2e-5)


@pytest.mark.parametrize("name", ["Mamba2", "NemotronH"])
def test_gradients_arrive_at_the_weights_of_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A_log, D, dt_bias and all others, where they are trained beside the adapter."""
    model = small(name, InitialStateConfig()).requires_grad_(True)
    ids = tokens(2, 19)
    expected = gradients(model, ids)
    take_the_fast_path(monkeypatch)
    for one, other in zip(gradients(model, ids), expected, strict=True):
        close(one, other, 1e-4)
    assert paths(model) == {"ssm_tune kernels"}


def test_several_adapters_of_both_offsets_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("FalconH1", METHODS["h"])
    for other in ("rank", "y"):
        model.add_adapter(other, METHODS[other])
    model.base_model.set_adapter(["default", "rank", "y"])
    fill(model)
    expected = logits(model, tokens(2, 19))
    take_the_fast_path(monkeypatch)
    close(logits(model, tokens(2, 19)), expected, 2e-5)
    assert paths(model) == {"ssm_tune kernels"}


@pytest.mark.parametrize("asked", [{"dt_softplus": False}, {"z": torch.ones(1)}, {"seq_idx": torch.ones(1)}])
def test_what_the_runners_scan_does_not_do_is_left_to_transformers(asked: dict[str, Any]) -> None:
    usual = {"initial_states": None, "dt_softplus": True, "z": None}
    assert fits_mamba2(usual)
    assert not fits_mamba2(usual | asked)


@pytest.mark.gpu
def test_on_a_gpu_mamba1_scans_with_the_runners_kernels() -> None:
    ids = tokens(2, 70)
    for config in (StateOffsetConfig(rank=2), InitialStateConfig()):
        model = tuned("Mamba", config)
        expected = logits(model, ids)
        close(logits(model.cuda(), ids.cuda()).cpu(), expected, 1e-4)
        assert paths(model) == {"ssm_tune kernels"}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["Mamba2", "Bamba", "FalconH1", "NemotronH", "Zamba2"])
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_mamba2_scans_with_the_runners_kernels(name: str, method: str) -> None:
    """Logits and gradients with padding, and a cache, as on a CPU in float32."""
    model = small(name, METHODS[method])
    ids, mask = padded(5, 2)

    def numbers(ids: Tensor, mask: Tensor) -> list[Tensor]:
        found = [logits(model, ids, attention_mask=mask)[mask == 1], *gradients(model, ids, mask)]
        return [*found, in_chunks(model, ids)]

    expected = numbers(ids, mask)
    model.cuda()
    for one, other in zip(numbers(ids.cuda(), mask.cuda()), expected, strict=True):
        close(one.cpu(), other, 1e-4)
    assert paths(model) == {"ssm_tune kernels"}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["Mamba2", "FalconH1"])
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_bfloat16_is_within_its_rounding(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far from float32 as transformers' scan in bfloat16 is, or twice as far at most."""
    ids = tokens(2, 70).cuda()
    exact = small(name, METHODS[method])
    expected = [logits(exact.cuda(), ids), *gradients(exact, ids)]
    model = get_peft_model(fresh(name).to(torch.bfloat16), METHODS[method]).eval().cuda()
    fill_as(model, exact)
    found = [logits(model, ids), *gradients(model, ids)]
    assert paths(model) == {"ssm_tune kernels"}
    monkeypatch.setattr(recurrent_layer, "mamba2_kernels_run", lambda x, states: False)
    theirs = [logits(model, ids), *gradients(model, ids)]
    assert paths(model) == {"transformers"}
    for one, other, true in zip(found, theirs, expected, strict=True):
        allowed = 2 * (other.float() - true).abs().max() + 1e-2 * true.abs().max()
        assert (one.float() - true).abs().max() <= allowed


def fill_as(model: Any, other: Any) -> None:
    """Give the trained tensors the values of another model's."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(other.get_parameter(name))
