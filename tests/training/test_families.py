"""Training of a Mamba-2: recomputation, micro batches and the estimate of activation memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.small_models import Silent, methods_of, small_model
from helpers.training_runs import SEQUENCES

from ssm_tune.config.groups import method_section
from ssm_tune.config.schema import TrainConfig
from ssm_tune.data.collator import collate
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.training.activation_memory import estimate_activation_memory, saved_bytes
from ssm_tune.training.settings import TrainSettings
from ssm_tune.training.train_step import label_loss
from ssm_tune.training.trainer import Trainer

METHODS = methods_of("mamba2")


def method_of(name: str, options: dict[str, Any] | None = None) -> Any:
    return load_method(method_section(name, options, "mamba2"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in METHODS),
        ("lora", {"targets": ["in_proj.z", "in_proj.B", "out_proj"]}),
        ("lora", {"targets": ["in_proj.z", "in_proj.B", "out_proj"], "use_dora": True}),
    ],
)
def test_loss_and_gradients_have_the_same_bits_whatever_is_recomputed(name: str, options: dict[str, Any]) -> None:
    model = small_model(n_layer=4, family="mamba2")
    adapter = attach(model.train(), method_of(name, options))
    batch, found = collate(SEQUENCES[:3], 0, keys=[3, 1, 4]), []
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    for model.recompute, model.recompute_selective in [(0, 0), (0, 1), (0, 4), (2, 1), (4, 0)]:
        model.zero_grad()
        with model.randomness.of(batch.keys):
            loss = label_loss(model, batch)
            loss.backward()
        gradients = [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]
        found.append([loss.detach(), *gradients])
    assert len(found[0]) == 1 + len(list(adapter.parameters()))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_the_memory_of_activations_is_what_autograd_keeps(name: str) -> None:
    model, method = small_model(n_layer=12, family="mamba2"), method_of(name)
    found = estimate_activation_memory(model, method, torch.float32)
    attach(model.train(), method)
    counted = saved_bytes(model, 3, 300)
    assert found.layers * (3 * (300 * found.token + found.row) + found.batch) == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize("name", ["state_offset", "lora", "prefix"])
def test_micro_batches_give_the_losses_of_whole_batches(name: str) -> None:
    found = []
    for micro_batch in (None, 2, 1):
        adapter = attach(small_model(family="mamba2"), method_of(name), seed=1)
        settings = TrainSettings.of(TrainConfig(epochs=10, max_steps=6), 1e-2, 4, seed=1)
        trainer = Trainer(adapter, SEQUENCES, settings, 0, None, micro_batch)
        trainer.fit(lambda epoch, step: None, Silent())
        found.append([row["loss"] for row in trainer.result.steps])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
