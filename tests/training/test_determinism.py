"""train.deterministic: PyTorch's mode holds within training steps alone, and cuBLAS's workspace is fixed in time."""

from __future__ import annotations

import os

import pytest
import torch
from helpers.small_models import Silent
from helpers.training_runs import started

from ssm_tune.data.collator import Batch
from ssm_tune.training import determinism
from ssm_tune.training.determinism import VARIABLE, fix_cublas_workspace
from ssm_tune.training.train_step import TrainStep
from ssm_tune.utils.errors import UserError


def test_operations_without_a_fixed_order_are_refused_within_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, modes = TrainStep.backward, []

    def watched(step: TrainStep, part: Batch) -> None:
        modes.append(torch.are_deterministic_algorithms_enabled())
        plain(step, part)

    monkeypatch.setattr(TrainStep, "backward", watched)
    ends = []
    for deterministic in (False, True, True):
        training = started("lora")
        training.deterministic = deterministic
        training.fit(lambda epoch, step: modes.append(torch.are_deterministic_algorithms_enabled()), Silent())
        assert not torch.are_deterministic_algorithms_enabled()
        assert modes == ([deterministic] * 11 + [False]) * 2
        modes.clear()
        ends.append(training)
    assert ends[1].result.steps == ends[2].result.steps
    for one, two in zip(ends[1].step.parameters, ends[2].step.parameters, strict=True):
        assert torch.equal(one, two)


def test_cublas_is_told_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    fix_cublas_workspace()
    assert os.environ[VARIABLE] == determinism.FIXED[0]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    fix_cublas_workspace()  # it was told
    monkeypatch.setenv(VARIABLE, ":0:0")
    with pytest.raises(UserError, match="before this process uses the GPU"):
        fix_cublas_workspace()
