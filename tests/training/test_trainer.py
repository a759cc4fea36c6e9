"""The optimizer against a plain loop of PyTorch's own, step counts of the protocol, divergence and saturation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.small_models import Silent, small_model
from helpers.training_runs import train_settings

from ssm_tune.config.groups import method_section
from ssm_tune.data.collator import collate, epoch_order
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.training.position import TrainResult
from ssm_tune.training.sanity_checks import divergence
from ssm_tune.training.settings import TrainSettings, total_steps
from ssm_tune.training.train_step import label_loss
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Diverged, UserError

SEQUENCES = [TokenizedExample([(7 * i + j) % 63 + 1 for j in range(5 + i % 4)], 3) for i in range(10)]

SAME = [TokenizedExample([1, 2, 3], 1)] * 4


def run(
    wanted: TrainSettings, name: str = "state_offset", sequences: list[TokenizedExample] = SEQUENCES
) -> tuple[TrainResult, list[tuple[int, int]], torch.Tensor]:
    adapter = attach(small_model(), load_method(method_section(name)))
    training, evaluated = Trainer(adapter, sequences, wanted, 0), []
    training.fit(lambda epoch, step: evaluated.append((epoch, step)), Silent())
    return training.result, evaluated, torch.cat([value.flatten() for value in adapter.tensors().values()])


def test_step_counts_of_the_official_code() -> None:
    rte = train_settings(epochs=10)
    assert total_steps(2490, rte) == (623, 6230)
    assert total_steps(3668, rte) == (917, 9170)
    assert total_steps(62_659, rte) == (15_665, 156_650)
    assert total_steps(14_732, train_settings(epochs=10, batch_size=2)) == (7366, 73_660)
    with pytest.raises(UserError, match="more than the 3 training examples"):
        total_steps(3, rte)


def test_training_equals_a_plain_loop() -> None:
    """AdamW with linear decay from the full rate, clipping at 1.0, loss over all label tokens of the batch."""
    trained, evaluated, ours = run(train_settings())
    adapter = attach(small_model(), load_method(method_section("state_offset")))
    parameters = list(adapter.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 6)
    orders = [epoch_order(10, 42, epoch) for epoch in range(3)]
    indices = [order[start : start + 4] for order in orders for start in (0, 4)]
    losses = []
    for batch in indices:  # 10 examples, batch 4: ceil gives 3 steps an epoch, the loader 2: a run reads into epoch 3
        loss = label_loss(adapter.model, collate([SEQUENCES[i] for i in batch], 0))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    oracle = torch.cat([value.flatten() for value in adapter.tensors().values()])
    assert np.array_equal(np.float32([row["loss"] for row in trained.steps]), np.float32(losses))  # the same bits
    assert torch.equal(ours, oracle)
    assert evaluated == [(1, 3), (2, 6)]
    assert trained.tokens == sum(len(SEQUENCES[i].tokens) - 1 for batch in indices for i in batch)


def test_two_runs_with_one_seed_are_bit_identical_and_seeds_differ() -> None:
    one, two, other = (run(train_settings(seed=seed), "lora")[2] for seed in (42, 42, 1042))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_max_steps_ends_with_an_evaluation() -> None:
    trained, evaluated, _ = run(train_settings(max_steps=4))
    assert len(trained.steps) == 4
    assert evaluated == [(1, 3), (2, 4)]


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    adapter = attach(small_model(), load_method(method_section("state_offset")))
    with torch.no_grad():
        adapter.model.backbone.norm_f.weight[0] = math.inf
    training = Trainer(adapter, SEQUENCES, train_settings(), 0)
    with pytest.raises(Diverged, match="not finite at step 1"):
        training.fit(lambda epoch, step: None, Silent())
    assert len(training.result.steps) == 1


def test_a_loss_far_above_guessing_stops_the_run() -> None:
    with pytest.raises(Diverged, match="mean loss of 20 steps"):
        run(train_settings(learning_rate=0.3, epochs=400), "full", SAME)


def test_a_saturated_run_stops_where_the_paper_protocol_asks() -> None:
    adapter = attach(small_model(), load_method(method_section("full")))
    with torch.no_grad():
        adapter.model.backbone.norm_f.weight *= 30  # logits large enough for float32 to round the loss to zero
    wanted = train_settings(learning_rate=0.02, epochs=400, stop_when_saturated=True)
    training, evaluated = Trainer(adapter, SAME, wanted, 0), []
    training.fit(lambda epoch, step: evaluated.append(step), Silent())
    trained = training.result
    assert trained.stopped is not None
    assert len(trained.steps) < 400
    assert evaluated[-1] == len(trained.steps)


def test_bfloat16_adapters_train_in_bfloat16() -> None:
    adapter = attach(small_model(), load_method(method_section("state_offset")), dtype=torch.bfloat16)
    Trainer(adapter, SEQUENCES, train_settings(), 0).fit(lambda epoch, step: None, Silent())
    assert {value.dtype for value in adapter.parameters()} == {torch.bfloat16}
    assert adapter.model.dtype == torch.float32


def test_a_high_start_is_no_divergence_but_a_rise_from_it_is() -> None:
    def losses(*values: float) -> list[dict[str, float]]:
        return [{"step": float(i + 1), "loss": loss, "grad_norm": 1.0} for i, loss in enumerate(values)]

    assert divergence(losses(*[16.0] * 20), 1000) is None  # above 2 log 1000 = 13.8 from the first step on
    assert divergence(losses(*[16.0] * 20, *[31.0] * 20), 1000) is None
    assert "at step 40" in str(divergence(losses(*[16.0] * 20, *[33.0] * 20), 1000))
    assert "at step 40" in str(divergence(losses(*[1.0] * 20, *[14.0] * 20), 1000))
