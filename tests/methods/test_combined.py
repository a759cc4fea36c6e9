"""A combination is its parts on one model: same logits, own rates, counts, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_models import Silent, small_model
from helpers.training_runs import SEQUENCES, train_settings

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.config.compose import Composer, compose
from ssm_tune.methods.adapter import Adapter
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import UserError

OFFSET = {"method": "state_offset"}
LORA = {"method": "lora", "targets": ["in_proj", "out_proj"], "dropout": 0.0}
TOKENS = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(2))


def combined(*parts: dict[str, Any], family: str = "mamba", dtype: torch.dtype = torch.float64) -> Adapter:
    return ssm_tune.attach(small_model(dtype, family=family), "combined", parts=list(parts))


def randomize(adapter: Adapter) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_it_computes_what_its_parts_compute_on_one_model(family: str) -> None:
    """The update merged into the weights, and the offset alone on those."""
    both = combined(OFFSET, LORA, family=family)
    randomize(both)
    offset = ssm_tune.attach(small_model(torch.float64, family=family), "state_offset")
    with torch.no_grad():
        for mixer, own in zip(both.model.mixers, offset.model.mixers, strict=True):
            for projection, update in mixer.injection.updates.items():
                update.merge(getattr(own, projection).weight.data)
        for name, parameter in offset.named_parameters():
            parameter.copy_(both.state[name])
        assert torch.allclose(both.model.eval()(TOKENS), offset.model.eval()(TOKENS), atol=1e-10)
    assert both.trainable == offset.trainable + sum(
        value.numel() for name, value in both.named_parameters() if ".updates." in name
    )


def test_each_part_trains_at_its_own_rate() -> None:
    """Adam's first step moves every entry that has a gradient by the learning rate."""
    adapter = combined({**OFFSET, "rate": 5.0}, {"method": "bitfit"}, {**LORA, "rate": 0.25}, dtype=torch.float32)
    before = {name: value.detach().clone() for name, value in adapter.named_parameters()}
    trainer = Trainer(adapter, SEQUENCES, train_settings(max_steps=1, weight_decay=0.0), 0)
    trainer.fit(lambda epoch, step: None, Silent())
    moved = {name: float((value.detach() - before[name]).abs().max()) for name, value in adapter.named_parameters()}
    for name, distance in moved.items():
        factor = 5.0 if "state_offset" in name else 0.25 if ".updates." in name else 1.0
        expected = 0.0 if name.endswith(".A") else factor * 1e-2  # A has no gradient while B is zero
        assert distance == pytest.approx(expected, rel=1e-2), name
    assert trainer.result.steps[0]["learning_rate"] == 1e-2


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_has_the_same_bits(stop: int) -> None:
    parts = {**OFFSET, "rate": 3.0}, {"method": "lora"}, {"method": "bitfit", "rate": 3.0}

    def trainer(steps: int) -> Trainer:
        return Trainer(combined(*parts, dtype=torch.float32), SEQUENCES, train_settings(max_steps=steps), 0)

    whole, first, second = trainer(8), trainer(8), trainer(8)
    whole.fit(lambda epoch, step: None, Silent())
    while first.position.step < stop:
        first.adapter.model.train()
        first.train_steps()
    second.load(first.state(), {name: value.clone() for name, value in first.tensors().items()})
    second.fit(lambda epoch, step: None, Silent())
    assert second.result.steps == whole.result.steps
    for name, value in whole.adapter.named_parameters():
        assert torch.equal(value, second.adapter.state[name]), name


def test_it_is_saved_with_all_options_and_loads(tmp_path: Path) -> None:
    adapter = combined(OFFSET, {**LORA, "init": "pissa", "rank": 2}, {"method": "prompt", "tokens": 3})
    randomize(adapter)
    adapter.save(tmp_path)
    loaded = ssm_tune.load_adapter(small_model(torch.float64), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.model(TOKENS), adapter.model.eval()(TOKENS))
    assert loaded.method == adapter.method
    assert loaded.method.options["parts"][0] == {"method": "state_offset", "rate": 1.0, "rank": None, "scale": None}


def test_options_that_are_left_out_are_the_familys_defaults() -> None:
    asked = [
        "method=combined",
        "method.parts=[{method: bitfit}, {method: lora, rate: 2}]",
        "task=samsum",
        "data=sample",
    ]
    for model, targets in (
        (["model=tiny"], ["dt_proj", "x_proj.dt", "x_proj.B", "x_proj.C"]),
        (["model=random", "model.family=mamba2"], ["in_proj.dt", "in_proj.B", "in_proj.C"]),
    ):
        config = compose([*asked, *model])
        assert config.method["parts"][1]["targets"] == targets
        assert config.method["parts"][1]["rate"] == 2
        assert Composer().config([*asked, *model]).method == config.method


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ("[{method: state_offset}, {method: state_offset, rank: 2}]", "both claim state_offset"),
        ("[{method: lora, targets: [in_proj]}, {method: lora, targets: [in_proj.x]}]", "both claim updates.in_proj"),
        ("[{method: bitfit}, {method: partial, parameters: [conv1d]}]", "bitfit and partial both claim conv1d.bias"),
        ("[{method: lora}, {method: full}]", "lora and full both claim"),
        ("[{method: additional_scan}, {method: lora}]", "extra states and an update of x_proj"),
        ("[{method: prefix}, {method: initial_state}]", "a prefix and an initial state"),
        ("[{method: state_offset}]", "at least two"),
        ("[{method: bitfit}, {method: lorra}]", "there is no method 'lorra'"),
        ("[{method: bitfit}, {method: lora, rnk: 2}]", "lora has no option 'rnk'"),
        ("[{method: bitfit}, {method: lora, learning_rate: 1}]", "rate=FACTOR"),
        ("[{method: bitfit}, {method: lora, rate: 0}]", "rate of lora must be a positive number"),
        ("[{method: bitfit}, {method: combined}]", "combined has parts itself"),
        ("[{method: bitfit}, lora]", "a part is {method: NAME"),
        ("[{method: bitfit}, {method: lora, targets: [in_proj.B]}]", "a Mamba-1"),
    ],
)
def test_what_cannot_be_combined_ends_in_one_line(
    parts: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["method=combined", f"method.parts={parts}", "task=samsum", "model=tiny", "data=sample"]
    assert main([*run, f"output_dir={tmp_path}", "train.max_steps=1"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1], lines
    assert "Traceback" not in "".join(lines)


def test_a_combination_merges_where_each_part_does() -> None:
    assert combined({"method": "bitfit"}, LORA).method.unmergeable_reason is None
    reason = combined(OFFSET, LORA).method.unmergeable_reason
    assert reason is not None
    assert reason.startswith("of state_offset")


def test_the_parts_are_told_with_counts_and_rates() -> None:
    adapter = combined({**OFFSET, "rate": 2.0}, LORA)
    said = adapter.method.parts_in_words(adapter.model.config, 1e-3)
    assert said == f"state_offset {2 * 32 * 4:,} at 0.002, lora {2 * 8 * (16 + 64 + 32 + 16):,} at 0.001"


def test_an_adapter_cannot_hold_parts_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        combined()
