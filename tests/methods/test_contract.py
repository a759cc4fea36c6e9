"""Every method in conf/method answers the same questions; a newcomer is asked them by adding its yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.small_models import Silent, methods_of, small_model

from ssm_tune.config.groups import FAMILIES, method_section
from ssm_tune.config.schema import TrainConfig
from ssm_tune.data.collator import TokenizedExample
from ssm_tune.methods.adapter import Adapter, attach
from ssm_tune.methods.base import load_method
from ssm_tune.methods.load import read_adapter
from ssm_tune.models.mamba import Mamba
from ssm_tune.training.sanity_checks import fingerprint
from ssm_tune.training.settings import TrainSettings
from ssm_tune.training.trainer import Trainer

VARIANTS = [(family, name, {}) for family in FAMILIES for name in methods_of(family)] + [
    *((family, "state_offset", {"rank": 2}) for family in FAMILIES),
    ("mamba2", "state_offset", {"rank": 2, "scale": 4.0}),
    ("mamba", "additional_scan", {"a_init": "s4d"}),
    *((family, "full", {"scope": "s6"}) for family in FAMILIES),
    *((family, "partial", {"parameters": ["norm", "in_proj", "embedding"]}) for family in FAMILIES),
    ("mamba", "lora", {"targets": ["in_proj", "out_proj", "x_proj.C"], "dropout": 0.0}),
    ("mamba2", "lora", {"targets": ["in_proj.z", "in_proj.C", "out_proj", "in_proj.x"], "dropout": 0.0}),
    ("mamba2", "lora", {"targets": ["in_proj"]}),
    *((family, "lora", {"targets": ["all"], "use_dora": True}) for family in FAMILIES),
    *((family, "lora", {"targets": ["all"], "init": "pissa", "rank": 1}) for family in FAMILIES),
    ("mamba", "sdt", {"frozen_channels": 0.9, "frozen_states": 0.5, "targets": ["in_proj.x", "dt_proj"]}),
    ("mamba", "lora", {"targets": ["in_proj.z", "x_proj.C"], "init": "pissa", "rank": 2, "use_dora": True}),
]
IDS = ["-".join([*names, *(f"{key}={value}" for key, value in options.items())]) for *names, options in VARIANTS]
every_variant = pytest.mark.parametrize(("family", "name", "options"), VARIANTS, ids=IDS)


def attached(family: str, name: str, options: dict, dtype: torch.dtype = torch.float32, seed: int = 1) -> Adapter:  # type: ignore[type-arg]
    model = small_model(dtype, family=family)
    return attach(model, load_method(method_section(name, options, family)), seed=seed, dtype=dtype)


def trained(family: str, name: str, options: dict, dtype: torch.dtype = torch.float32, steps: int = 5) -> Adapter:  # type: ignore[type-arg]
    """An adapter after a few steps, which the trainability check has passed."""
    adapter = attached(family, name, options, dtype)
    generator = torch.Generator().manual_seed(0)
    sequences = [TokenizedExample(torch.randint(1, 64, (9,), generator=generator).tolist(), 4) for _ in range(8)]
    settings = TrainSettings.of(TrainConfig(epochs=10, max_steps=steps), 1e-2, 4, seed=1)
    Trainer(adapter, sequences, settings, 0).fit(lambda epoch, step: None, Silent())
    adapter.model.eval()
    return adapter


def logits_of(model: Mamba) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        return model.eval()(torch.randint(64, (3, 11), generator=generator))


@every_variant
def test_declared_parameters_move_and_frozen_ones_stay(family: str, name: str, options: dict) -> None:  # type: ignore[type-arg]
    before = {key: fingerprint(value) for key, value in attached(family, name, options).model.named_parameters()}
    adapter = trained(family, name, options)  # the gate raises where the first steps break the rule
    for key, value in adapter.model.named_parameters():
        moved = fingerprint(value) != before[key]
        expected = key in dict(adapter.named_parameters()) and not adapter.matches(key, adapter.method.may_stay_fixed)
        assert moved == expected, key


@every_variant
def test_identity_at_the_start_where_declared(family: str, name: str, options: dict) -> None:  # type: ignore[type-arg]
    frozen, adapter = logits_of(small_model(family=family)), attached(family, name, options)
    # additional_scan's rows share a product with x_proj's; PiSSA's start is added and taken off again
    rounding = 1e-6 if name == "additional_scan" or "init" in options else 0.0
    same = bool((logits_of(adapter.model) - frozen).abs().max() <= rounding * frozen.abs().max())
    assert same == adapter.method.identity_at_start


@every_variant
def test_count_in_closed_form(family: str, name: str, options: dict) -> None:  # type: ignore[type-arg]
    adapter = attached(family, name, options)
    assert adapter.method.num_trainable_params(adapter.model.config) == adapter.trainable > 0


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_saved_and_loaded_onto_a_fresh_model_gives_the_same_logits(
    family: str,
    name: str,
    options: dict,
    dtype: torch.dtype,
    tmp_path: Path,  # type: ignore[type-arg]
) -> None:
    adapter = trained(family, name, options, dtype)
    adapter.save(tmp_path, {})
    description, tensors = read_adapter(tmp_path)
    fresh = attach(small_model(dtype, family=family), load_method(description["method"]), seed=99, dtype=dtype)
    fresh.load_tensors(tensors)
    assert torch.equal(logits_of(fresh.model), logits_of(adapter.model))
    assert not torch.equal(logits_of(adapter.model), logits_of(small_model(dtype, family=family)))


@every_variant
def test_a_model_in_evaluation_mode_stays_in_it(family: str, name: str, options: dict) -> None:  # type: ignore[type-arg]
    """Nothing random, such as LoRA's dropout, is on in what a method adds to it."""
    model = small_model(family=family).eval()
    attach(model, load_method(method_section(name, options, family)), seed=1)
    assert not any(module.training for module in model.modules())


@every_variant
def test_full_scan_equals_step_by_step_decoding(family: str, name: str, options: dict) -> None:  # type: ignore[type-arg]
    model = trained(family, name, options, torch.float64).model
    tokens = torch.randint(64, (3, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole = model(tokens)
        ends = torch.tensor([4, 1, 6])
        logits, cache = model.prefill(tokens[:, :6], ends)
        rows = torch.arange(3)
        for _ in range(5):
            assert torch.allclose(logits, whole[rows, ends - 1], atol=1e-10)
            logits = model.step(tokens[rows, ends], cache)
            ends = ends + 1


@every_variant
def test_initialisation_follows_the_seed(family: str, name: str, options: dict) -> None:  # type: ignore[type-arg]
    one, same, other = (attached(family, name, options, seed=seed).tensors() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    drawn = any(not torch.equal(one[key], other[key]) for key in one)
    constant = all(bool((value == value.flatten()[0]).all()) for value in one.values())
    own = "init" in options or not any("injection" in key or "prompt" in key for key in one)  # the model's own values
    assert drawn or constant or own


@every_variant
def test_restoring_what_does_not_fit_is_refused(family: str, name: str, options: dict) -> None:  # type: ignore[type-arg]
    from ssm_tune.utils.errors import UserError

    adapter = attached(family, name, options)
    tensors = adapter.tensors()
    first = next(iter(tensors))
    with pytest.raises(UserError, match="lacks"):
        adapter.load_tensors({key: value for key, value in tensors.items() if key != first})
    with pytest.raises(UserError, match="shape"):
        adapter.load_tensors(tensors | {first: torch.cat([tensors[first], tensors[first]], -1)})
    with pytest.raises(UserError, match="holds"):
        adapter.load_tensors(tensors | {"other": torch.zeros(1)})
