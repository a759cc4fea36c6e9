"""Which AdamW a run takes belongs to its identity where it is more than rounding: for adapters in 16 bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ssm_tune.config.compose import compose
from ssm_tune.experiment.setup import Experiment, build_experiment
from ssm_tune.ops.backend import Choice
from ssm_tune.records.run_id import request_hash

SETTINGS = ["method=bitfit", "task=samsum", "model=tiny", "data=sample", "device=cpu"]


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return build_experiment(compose(SETTINGS))


def on_a_gpu(experiment: Experiment, graphs: str, dtype: torch.dtype) -> Experiment:
    train = dataclasses.replace(experiment.config.train, cuda_graphs=graphs)
    config = dataclasses.replace(experiment.config, train=train)
    return dataclasses.replace(experiment, config=config, kernels=Choice("cuda", "a GPU"), adapter_dtype=dtype)


def test_the_record_names_the_optimizer(experiment: Experiment) -> None:
    assert experiment.backend["optimizer"] == "AdamW"
    assert on_a_gpu(experiment, "auto", torch.bfloat16).backend["optimizer"] == "AdamW, fused"
    assert on_a_gpu(experiment, "off", torch.bfloat16).backend["optimizer"] == "AdamW"


@pytest.mark.parametrize(("dtype", "same"), [(torch.bfloat16, False), (torch.float32, True)])
def test_graphs_make_another_run_of_a_narrow_adapter_alone(
    experiment: Experiment, dtype: torch.dtype, same: bool
) -> None:
    keys = {on_a_gpu(experiment, graphs, dtype).key for graphs in ("auto", "off")}
    assert (len(keys) == 1) is same
    name = str(dtype).removeprefix("torch.")
    requests = {
        request_hash(compose([*SETTINGS, f"train.cuda_graphs={graphs}", f"train.adapter_dtype={name}"]))
        for graphs in ("auto", "off")
    }
    assert (len(requests) == 1) is same
