"""Members of one step against the same runs alone: losses, gradient norms, parameters, and what ends a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.small_models import Silent, small_model
from helpers.training_runs import SEQUENCES, train_settings

from ssm_tune.config.groups import FAMILIES, method_section, names
from ssm_tune.methods.adapter import Adapter, attach, attach_members
from ssm_tune.methods.base import load_method
from ssm_tune.training.members import begin_steps
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Diverged, UserError

Options = dict[str, Any]
CHANGES: list[Options] = [
    {"seed": 42, "learning_rate": 1e-2, "max_steps": 5},
    {"seed": 1042, "learning_rate": 3e-2, "weight_decay": 0.1, "max_steps": 4},
    {"seed": 7, "learning_rate": 1e-3, "betas": (0.8, 0.95), "max_grad_norm": 0.1, "max_steps": 6},
]
"""Three members; batches come in three orders and lengths, and they end after other numbers of steps."""
JOINED = [
    (family, name)
    for family in FAMILIES
    for name in names("method")
    if load_method(method_section(name, family=family)).alone_reason is None
]
VARIANTS: list[tuple[str, str, Options]] = [
    *((family, name, {}) for family, name in JOINED),
    *((family, "lora", {"init": "pissa", "rank": 1}) for family in FAMILIES),
    *((family, "state_offset", {"rank": 2, "scale": 4.0}) for family in FAMILIES),
    ("mamba", "additional_scan", {"a_init": "s4d"}),
    ("mamba", "lora", {"targets": ["in_proj", "out_proj", "x_proj.C"], "dropout": 0.0}),
    ("mamba2", "lora", {"targets": ["in_proj.z", "in_proj.C", "out_proj", "in_proj.x"], "dropout": 0.0}),
    ("mamba2", "lora", {"targets": ["in_proj"], "dropout": 0.5}),
]
IDS = ["-".join([*names, *(f"{key}={value}" for key, value in options.items())]) for *names, options in VARIANTS]
every_variant = pytest.mark.parametrize(("family", "name", "options"), VARIANTS, ids=IDS)


def trainers_of(
    adapters: Sequence[Adapter], changes: Sequence[Options], micro_batch: int | None = None
) -> list[Trainer]:
    made = zip(adapters, changes, strict=True)
    return [Trainer(adapter, SEQUENCES, train_settings(**change), 0, None, micro_batch) for adapter, change in made]


def together(family: str, name: str, options: Options, dtype: torch.dtype, micro_batch: int | None) -> list[Trainer]:
    model = small_model(dtype, family=family)
    method = load_method(method_section(name, options, family))
    adapters = attach_members(model, method, [change["seed"] for change in CHANGES], dtype)
    trainers = trainers_of(adapters, CHANGES, micro_batch)
    run(trainers)
    return trainers


def run(trainers: list[Trainer]) -> None:
    trainers[0].adapter.model.train()
    while going := [trainer for trainer in trainers if not trainer.finished]:
        begin_steps(going)
        for trainer in going:
            trainer.finish_step()
            trainer.read_steps()


def alone(
    change: Options, family: str, name: str, options: Options, dtype: torch.dtype, micro_batch: int | None
) -> Trainer:
    model = small_model(dtype, family=family)
    method = load_method(method_section(name, options, family))
    adapter = attach(model, method, seed=change["seed"], dtype=dtype)
    (trainer,) = trainers_of([adapter], [change], micro_batch)
    trainer.fit(lambda epoch, step: None, Silent())
    return trainer


def apart(one: Trainer, other: Trainer) -> float:
    """How far losses, gradient norms and tensors of two runs are from each other, as a share of their size."""
    worst = 0.0
    for mine, theirs in zip(one.result.steps, other.result.steps, strict=True):
        assert {key: mine[key] for key in ("step", "epoch", "learning_rate", "tokens")} == {
            key: theirs[key] for key in ("step", "epoch", "learning_rate", "tokens")
        }
        worst = max(worst, *(abs(mine[key] - theirs[key]) / abs(theirs[key]) for key in ("loss", "grad_norm")))
    tensors = other.adapter.tensors()
    for key, value in one.adapter.tensors().items():
        scale = max(float(tensors[key].abs().max()), 1e-30)
        worst = max(worst, float((value - tensors[key]).abs().max()) / scale)
    return worst


@every_variant
@pytest.mark.parametrize("micro_batch", [None, 2], ids=["whole", "micro-batches"])
def test_members_do_what_they_do_alone(family: str, name: str, options: Options, micro_batch: int | None) -> None:
    """In float64, where rounding is far from everything else; nine digits of a loss are kept."""
    joined = together(family, name, options, torch.float64, micro_batch)
    for trainer, change in zip(joined, CHANGES, strict=True):
        other = alone(change, family, name, options, torch.float64, micro_batch)
        assert len(trainer.result.steps) == change["max_steps"]
        assert apart(trainer, other) < 1e-7


@pytest.mark.parametrize(("family", "name"), JOINED)
def test_in_float32_members_agree_within_its_rounding(family: str, name: str) -> None:
    """Losses only: AdamW divides by the size of a gradient, so that where one is all rounding, so is the step."""
    joined = together(family, name, {}, torch.float32, None)
    for trainer, change in zip(joined, CHANGES, strict=True):
        other = alone(change, family, name, {}, torch.float32, None)
        losses = [[row["loss"] for row in one.result.steps] for one in (trainer, other)]
        assert losses[0] == pytest.approx(losses[1], rel=2e-5)


@pytest.mark.parametrize("recompute", [(2, 0), (0, 2), (1, 1)], ids=["whole", "partly", "both"])
@pytest.mark.parametrize(("family", "name"), [("mamba", "lora"), ("mamba2", "bitfit"), ("mamba", "additional_scan")])
def test_recomputed_blocks_give_the_same_bits(family: str, name: str, recompute: tuple[int, int]) -> None:
    found = []
    for whole, partly in ((0, 0), recompute):
        model = small_model(family=family)
        model.recompute, model.recompute_selective = whole, partly
        adapters = attach_members(model, load_method(method_section(name, family=family)), [1, 2])
        trainers = trainers_of(adapters, [{"seed": 1, "max_steps": 3}, {"seed": 2, "max_steps": 3}])
        run(trainers)
        found.append([trainer.result.steps for trainer in trainers])
    assert found[0] == found[1]


@every_variant
def test_a_members_adapter_is_that_of_a_run_alone(family: str, name: str, options: Options) -> None:
    """At the start, and what the model computes with it."""
    method = load_method(method_section(name, options, family))
    model, tokens = small_model(family=family), torch.arange(1, 12).view(1, -1)
    frozen = {key: value.clone() for key, value in model.named_parameters()}
    for adapter, seed in zip(attach_members(model, method, [3, 4]), (3, 4), strict=True):
        single = attach(small_model(family=family), method, seed=seed)
        theirs = single.tensors()
        assert all(torch.equal(value, theirs[key]) for key, value in adapter.tensors().items())
        with torch.no_grad():
            for value in (*adapter.parameters(), *single.parameters()):
                value += 0.1
            with adapter.active():
                logits = model.eval()(tokens)
            assert torch.equal(logits, single.model.eval()(tokens))
    assert all(torch.equal(value, dict(model.named_parameters())[key]) for key, value in frozen.items())


def test_a_member_that_diverges_leaves_the_others_as_they_are() -> None:
    method = load_method(method_section("state_offset"))
    changes: list[Options] = [{"seed": 1, "max_steps": 8}, {"seed": 2, "max_steps": 8}]
    whole = trainers_of(attach_members(small_model(torch.float64), method, [1, 2], torch.float64), changes)
    run(whole)
    first, second = trainers_of(attach_members(small_model(torch.float64), method, [1, 2], torch.float64), changes)
    for step in range(8):
        going = [first, second] if step <= 4 else [first]
        begin_steps(going)
        if step == 4:
            next(iter(second.adapter.parameters())).grad.fill_(math.nan)  # type: ignore[union-attr]
        for trainer in going:
            trainer.finish_step()
        first.read_steps()
        if step == 4:
            with pytest.raises(Diverged, match="not finite at step 5"):
                second.read_steps()
        elif step < 4:
            second.read_steps()
    assert apart(first, whole[0]) < 1e-7
    assert whole[1].result.steps[:4] == second.result.steps[:4]


def test_a_member_whose_parameters_are_not_finite_reaches_no_other() -> None:
    method = load_method(method_section("lora"))
    adapters = attach_members(small_model(), method, [1, 2])
    with torch.no_grad():
        for value in adapters[1].parameters():
            value.fill_(math.nan)
    first, second = trainers_of(adapters, [{"seed": 1}, {"seed": 2}])
    begin_steps([first, second])
    assert math.isfinite(first.step.loss)
    assert all(torch.isfinite(value.grad).all() for value in first.adapter.parameters() if value.grad is not None)
    assert not math.isfinite(second.step.loss)


def test_members_resume_from_other_places() -> None:
    """One that has done four steps joins one that begins; both end as if nothing had happened."""
    method = load_method(method_section("lora"))
    earlier = trainers_of([attach(small_model(torch.float64), method, seed=42, dtype=torch.float64)], CHANGES[:1])[0]
    earlier.adapter.model.train()
    for _ in range(4):
        earlier.train_steps()
    adapters = attach_members(small_model(torch.float64), method, [42, 1042], torch.float64)
    joined = trainers_of(adapters, CHANGES[:2])
    joined[0].load(earlier.state(), {name: value.detach().clone() for name, value in earlier.tensors().items()})
    run(joined)
    for trainer, change in zip(joined, CHANGES[:2], strict=True):
        assert apart(trainer, alone(change, "mamba", "lora", {}, torch.float64, None)) < 1e-7


def test_a_method_that_does_not_say_how_it_is_joined_is_refused() -> None:
    with pytest.raises(UserError, match="method=full cannot be trained together: it trains the model's own weights"):
        attach_members(small_model(), load_method(method_section("full")), [1, 2])
