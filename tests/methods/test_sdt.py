"""Sparse dimension tuning: the choice, the masked training and the warm-up, against plain loops over the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_models import Silent, small_model
from helpers.training_runs import SEQUENCES, train_settings
from torch import Tensor

import ssm_tune
from ssm_tune.methods.adapter import Adapter
from ssm_tune.methods.merge import merge_and_unload
from ssm_tune.methods.sdt import ChosenStates
from ssm_tune.models.config import MambaConfig
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import UserError

OPTIONS: dict[str, Any] = {"frozen_channels": 0.9, "frozen_states": 0.5, "warmup_steps": 5, "rank": 2, "dropout": 0.0}
LORA = {"method": "lora", "rank": 2, "alpha": 8, "dropout": 0.0, "targets": ["out_proj"]}
STEPS = 7


def tuned(dtype: torch.dtype = torch.float64, **changes: Any) -> Adapter:
    return ssm_tune.attach(small_model(dtype), "sdt", **{**OPTIONS, **changes})


def trainer_of(adapter: Adapter, steps: int = STEPS, **changes: Any) -> Trainer:
    settings = train_settings(**{"max_steps": steps, "weight_decay": 0.0, **changes})
    return Trainer(adapter, SEQUENCES, settings, 0)


def run(trainer: Trainer, until: int | None = None) -> Trainer:
    while not trainer.finished and trainer.position.step != until:
        trainer.adapter.model.train()
        trainer.train_steps()
    return trainer


def chosen(adapter: Adapter) -> list[tuple[list[int], list[list[int]]]]:
    """Channels and their states, of each layer."""
    found = []
    for mixer in adapter.model.mixers:
        slot = mixer.injection.A_log_update
        assert isinstance(slot, ChosenStates)
        assert torch.equal(slot.channels, mixer.injection.updates["x_proj"].channels)
        found.append((slot.channels.tolist(), slot.states.tolist()))
    return found


def plain_choice(moved: Tensor, channels: int, states: int) -> tuple[list[int], list[list[int]]]:
    """The rule in words: channels by how far all of their states moved, then the states that moved farthest."""
    D, N = moved.shape
    distance = [sum(float(moved[d, n]) ** 2 for n in range(N)) for d in range(D)]
    best = sorted(range(D), key=lambda d: -distance[d])[:channels]
    return best, [sorted(range(N), key=lambda n: -abs(float(moved[d, n])))[:states] for d in best]


def test_the_choice_is_the_rule_on_random_moves() -> None:
    for seed in range(5):
        slot = ChosenStates((37, 8), 6, 3).double()
        with torch.no_grad():
            slot.whole_A_log.copy_(torch.randn(37, 8, generator=torch.Generator().manual_seed(seed)))
        slot.choose()
        assert (slot.channels.tolist(), slot.states.tolist()) == plain_choice(slot.whole_A_log.detach(), 6, 3)


@pytest.mark.parametrize(
    ("frozen_channels", "frozen_states", "expected"),
    [
        (0.99, 0.75, (15, 4)),
        (0.99, 0.9, (15, 2)),
        (0.99, 0.95, (15, 1)),
        (0.0, 0.0, (1536, 16)),
        (0.9999, 0.99, (1, 1)),
    ],
)
def test_the_numbers_of_chosen_dimensions(
    frozen_channels: float, frozen_states: float, expected: tuple[int, int]
) -> None:
    """Of the published configs on mamba-130m: 1,536 - round(0.99 x 1,536) channels, 16 - round(0.75 x 16) states."""
    with torch.device("meta"):
        method = tuned(frozen_channels=frozen_channels, frozen_states=frozen_states).method
    assert method.sizes(MambaConfig(768, 24, 50_280)) == expected  # type: ignore[attr-defined]


def test_the_warm_up_trains_all_of_A_log_and_the_updates() -> None:
    """Against partial tuning of A_log beside LoRA for as many steps at the same rates: the moves, and so the choice."""
    sdt = tuned()
    trainer = run(trainer_of(sdt), until=4)
    other = ssm_tune.attach(
        small_model(torch.float64), "combined", parts=[{"method": "partial", "parameters": ["A_log"]}, LORA]
    )
    before = {name: value.detach().clone() for name, value in other.named_parameters()}
    twin = run(trainer_of(other), until=4)
    assert [row["learning_rate"] for row in trainer.result.steps] == pytest.approx(
        [1e-2 * (1 - k / 7) for k in range(4)]
    )
    assert [row["loss"] for row in trainer.result.steps] == pytest.approx([row["loss"] for row in twin.result.steps])
    for index, mixer in enumerate(sdt.model.mixers):
        name = f"backbone.layers.{index}.mixer.A_log"
        moved = other.state[name] - before[name]
        slot = mixer.injection.A_log_update
        assert isinstance(slot, ChosenStates)
        assert torch.allclose(slot.whole_A_log, moved, atol=1e-9)
        assert not mixer.injection.updates["x_proj"].columns.any()
    run(trainer, until=5)
    run(twin, until=5)
    for index, found in enumerate(chosen(sdt)):
        name = f"backbone.layers.{index}.mixer.A_log"
        assert found == plain_choice((other.state[name] - before[name]).detach(), 3, 2)


def test_after_the_warm_up_everything_is_back_where_it_was() -> None:
    adapter, fresh = tuned(), tuned()
    trainer = run(trainer_of(adapter), until=5)
    assert trainer.position.step == 5
    for name, value in fresh.optimized.items():
        assert torch.equal(adapter.optimized[name], value), name
    own = dict(small_model(torch.float64).named_parameters())
    assert all(torch.equal(adapter.model.get_parameter(name), value) for name, value in own.items())
    assert not any(value.any() for state in trainer.step.optimizer.state.values() for value in state.values())


def test_the_training_is_that_of_masked_gradients() -> None:
    """What was not chosen keeps its value; the rest moves as AdamW on the weights themselves moves it."""
    adapter = tuned()
    trainer = run(trainer_of(adapter))
    other = ssm_tune.attach(
        small_model(torch.float64), "combined", parts=[{"method": "partial", "parameters": ["A_log", "x_proj"]}, LORA]
    )
    config = other.model.config
    for mixer, (channels, states) in zip(other.model.mixers, chosen(adapter), strict=True):
        entries = torch.zeros(mixer.A_log.shape, dtype=torch.float64)
        columns = torch.zeros(mixer.x_proj.weight.shape, dtype=torch.float64)
        for channel, own in zip(channels, states, strict=True):
            entries[channel, own] = 1
            columns[config.dt_rank :, channel] = 1
        mixer.A_log.register_hook(lambda gradient, mask=entries: gradient * mask)
        mixer.x_proj.weight.register_hook(lambda gradient, mask=columns: gradient * mask)
    twin = run(trainer_of(other))
    ours = [row["loss"] for row in trainer.result.steps[5:]]
    assert ours == pytest.approx([row["loss"] for row in twin.result.steps], rel=1e-9)
    assert trainer.result.steps[5]["learning_rate"] == 1e-2
    (_, merged), (_, expected) = merge_and_unload(adapter), merge_and_unload(other)
    for name, weight in expected.items():
        assert torch.allclose(merged[name], weight, atol=1e-9), name
    before = dict(small_model(torch.float64).named_parameters())
    changed = sum(int((merged[name] != value).sum()) for name, value in before.items() if "out_proj" not in name)
    assert changed == 2 * (3 * 2 + 2 * 4 * 3)
    assert adapter.trainable == changed + 2 * 2 * (32 + 16)


@pytest.mark.parametrize("stop", [1, 3, 5, 6, 9])
def test_a_resumed_run_has_the_same_bits(stop: int) -> None:
    """Stopped in the warm-up, at its end, while the first steps are checked, and after them."""
    whole = run(trainer_of(tuned(torch.float32, dropout=0.1)))
    first, second = (trainer_of(tuned(torch.float32, dropout=0.1)) for _ in range(2))
    run(first, until=stop)
    second.load(first.state(), {name: value.clone() for name, value in first.tensors().items()})
    run(second)
    assert second.result.steps == whole.result.steps
    assert chosen(second.adapter) == chosen(whole.adapter)
    for name, value in whole.adapter.tensors().items():
        assert torch.equal(value, second.adapter.tensors()[name]), name


def test_evaluations_come_after_epochs_of_the_training() -> None:
    calls: list[tuple[int, int]] = []
    trainer = trainer_of(tuned(torch.float32), steps=10_000, epochs=2)
    trainer.fit(lambda epoch, step: calls.append((epoch, step)), Silent())
    assert calls == [(1, 5 + 11), (2, 5 + 22)]
    assert len(trainer.result.steps) == 27


def test_a_warm_up_is_no_longer_than_the_training() -> None:
    assert len(run(trainer_of(tuned(torch.float32, warmup_steps=500), steps=3)).result.steps) == 6


def test_adapters_name_dimensions_that_there_are(tmp_path: Path) -> None:
    adapter = tuned(torch.float32)
    run(trainer_of(adapter))
    adapter.save(tmp_path)
    loaded = ssm_tune.load_adapter(small_model(), tmp_path)
    assert chosen(loaded) == chosen(adapter)
    tensors = adapter.tensors()
    for name, value in (("A_log_update.channels", 32), ("A_log_update.states", -1), ("updates.x_proj.channels", 99)):
        key = f"backbone.layers.1.mixer.injection.{name}"
        with pytest.raises(UserError, match="must be numbers from 0 to"):
            tuned(torch.float32).load_tensors(tensors | {key: torch.full_like(tensors[key], value)})
        with pytest.raises(UserError, match="not whole numbers"):
            tuned(torch.float32).load_tensors(tensors | {key: tensors[key].float()})


@pytest.mark.parametrize(
    ("options", "family", "words"),
    [
        ({}, "mamba2", "method=sdt: a Mamba-2 has one A a head"),
        ({"targets": ["x_proj.B"]}, "mamba", "sdt changes x_proj itself"),
        ({"targets": ["all"]}, "mamba", "sdt changes x_proj itself"),
        ({"targets": ["q_proj"]}, "mamba", "'q_proj' matches no projection"),
        ({"frozen_states": 1.0}, "mamba", "method.frozen_states must be a number in [0, 1)"),
        ({"warmup_steps": 0}, "mamba", "method.warmup_steps must be a whole number"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], family: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        ssm_tune.attach(small_model(family=family), "sdt", **options)
    assert words in str(caught.value)
