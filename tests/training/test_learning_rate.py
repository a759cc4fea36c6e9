"""The learning rate of every step against the schedules of transformers, and what a schedule is part of."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers.training_runs import Uncaptured, started, train_settings

from ssm_tune.config.compose import compose
from ssm_tune.experiment.setup import build_experiment
from ssm_tune.records.run_id import request_hash
from ssm_tune.training.learning_rate import rate_factor
from ssm_tune.training.settings import total_steps
from ssm_tune.utils.errors import UserError

RUN = ["method=bitfit", "task=samsum", "model=tiny", "data=sample", "device=cpu"]


@pytest.mark.parametrize("lr_warmup", [0.0, 0.1, 0.25, 1.0, 7.0])
@pytest.mark.parametrize("lr_schedule", ["linear", "cosine", "constant"])
def test_the_rates_are_those_of_transformers(lr_schedule: str, lr_warmup: float) -> None:
    transformers = pytest.importorskip("transformers")
    steps, rate = 30, 0.5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    rising = math.ceil(steps * lr_warmup) if lr_warmup < 1 else int(lr_warmup)
    name = "constant_with_warmup" if lr_schedule == "constant" else lr_schedule
    schedule = transformers.get_scheduler(name, optimizer, rising, steps)
    for step in range(steps):
        assert rate * rate_factor(lr_schedule, lr_warmup, step, steps) == pytest.approx(
            schedule.get_last_lr()[0], rel=1e-12
        )
        optimizer.step()
        schedule.step()


def test_the_default_is_linear_decay_to_the_bit() -> None:
    assert [rate_factor("linear", 0.0, step, 7) for step in range(7)] == [1 - step / 7 for step in range(7)]


@pytest.mark.parametrize("lr_warmup", [6.0, 9.0, 0.99])
def test_a_rise_over_all_steps_is_refused(lr_warmup: float) -> None:
    with pytest.raises(UserError, match="lr_warmup"):
        total_steps(10, train_settings(lr_warmup=lr_warmup))


@pytest.mark.parametrize("captured", [False, True])
def test_a_training_resumes_with_the_rates_that_were_left(captured: bool) -> None:
    options = {"lr_schedule": "cosine", "lr_warmup": 4.0, "max_steps": 12}
    whole, first, rest = (started("lora", capture=Uncaptured() if captured else None, **options) for _ in range(3))
    while not whole.finished:
        whole.train_steps()
    while first.position.step < 6:
        first.read_every = 1
        first.train_steps()
    rest.load(first.state(), {name: value.clone() for name, value in first.tensors().items()})
    while not rest.finished:
        rest.train_steps()
    assert [row["learning_rate"] for row in whole.result.steps] == [row["learning_rate"] for row in rest.result.steps]
    assert whole.result.steps[2]["learning_rate"] == pytest.approx(0.5e-2)
    for name, value in whole.adapter.named_parameters():
        assert torch.equal(value, rest.adapter.state[name]), name


def test_it_is_part_of_a_run_where_it_is_not_the_default(tmp_path: Path) -> None:
    default = compose([*RUN, f"output_dir={tmp_path}"])
    spelled = compose([*RUN, f"output_dir={tmp_path}", "train.lr_schedule=linear", "train.lr_warmup=0"])
    cosine = compose([*RUN, f"output_dir={tmp_path}", "train.lr_schedule=cosine"])
    rising = compose([*RUN, f"output_dir={tmp_path}", "train.lr_warmup=3"])
    assert request_hash(default) == request_hash(spelled)
    assert len({request_hash(config) for config in (default, cosine, rising)}) == 3
    keys = [build_experiment(config).key for config in (default, spelled, cosine, rising)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_first_step_at_rate_0_moves_nothing_and_is_not_held_against_the_method() -> None:
    training = started("state_offset", options={"rank": 2}, lr_warmup=1.0, max_steps=2)
    before = {name: value.detach().clone() for name, value in training.adapter.named_parameters()}
    training.train_steps()
    assert all(torch.equal(value, before[name]) for name, value in training.adapter.named_parameters())
    training.train_steps()
    assert training.finished
