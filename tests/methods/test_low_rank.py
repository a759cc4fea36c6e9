"""LoRA, DoRA and PiSSA on every target of both families, against Hugging Face peft on the same weights."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from helpers.small_models import small_model
from torch import Tensor, nn

import ssm_tune
from ssm_tune.methods.adapter import Adapter
from ssm_tune.methods.low_rank import LowRankUpdate
from ssm_tune.methods.merge import merge_and_unload
from ssm_tune.models.config import Mamba2Config, MambaConfig, ModelConfig
from ssm_tune.models.initialization import init_weights
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops.keyed_dropout import keyed_dropout
from ssm_tune.utils.errors import UserError

SIZES: dict[str, ModelConfig] = {
    "mamba": MambaConfig(24, 2, 64, d_state=4, dt_rank=5),
    "mamba2": Mamba2Config(24, 2, 64, d_state=4, headdim=8, ngroups=2),
}
TARGETS = {
    "mamba": (
        ["in_proj"],
        ["in_proj.x"],
        ["in_proj.z", "in_proj.x"],
        ["x_proj"],
        ["x_proj.dt", "x_proj.B", "x_proj.C"],
        ["x_proj.C"],
        ["dt_proj"],
        ["out_proj"],
        ["all"],
    ),
    "mamba2": (
        ["in_proj"],
        ["in_proj.z", "in_proj.x", "in_proj.B", "in_proj.C", "in_proj.dt"],
        ["in_proj.B"],
        ["out_proj"],
        ["all"],
    ),
}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "pissa": {"init": "pissa"},
    "dora and pissa": {"use_dora": True, "init": "pissa"},
}
CASES = [(family, targets, kind) for family in TARGETS for targets in TARGETS[family] for kind in KINDS]
LAYER = 1


def attached(family: str, targets: list[str], dropout: float = 0.0, **options: Any) -> Adapter:
    """On a float64 model whose weights are float32's, with adapters that are no identity where they start as one."""
    model = init_weights(Mamba(SIZES[family]), 0).double()
    return ssm_tune.attach(model, "lora", rank=3, alpha=5, dropout=dropout, targets=targets, **options)


def names_of(adapter: Adapter) -> dict[str, LowRankUpdate]:
    """The updates of one layer, by the names of their maps."""
    found = {}
    for projection, update in adapter.model.mixers[LAYER].injection.updates.items():
        for part, own in update.parts.items():
            found[projection if part == projection else f"{projection}.{part}"] = own
    return found


class Split(nn.Module):
    """A layer's maps as separate modules, which peft can target."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        mixer = adapter.model.mixers[LAYER]
        for name, update in names_of(adapter).items():
            projection = getattr(mixer, name.partition(".")[0])
            layer = nn.Linear(projection.in_features, update.end - update.start, bias=projection.bias is not None)
            layer.weight.data.copy_(projection.weight[update.start : update.end])
            if projection.bias is not None:
                layer.bias.data.copy_(projection.bias)
            setattr(self, name.replace(".", "_"), layer)


def oracle_of(adapter: Adapter, kind: str) -> peft.PeftModel:
    """peft on the same weights; both sides then get the same adapter, away from its start."""
    updates = names_of(adapter)
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        lora_dropout=0.0,
        target_modules=[name.replace(".", "_") for name in updates],
        use_dora="dora" in kind,
        init_lora_weights="pissa" if "pissa" in kind else True,
    )
    oracle = peft.get_peft_model(Split(adapter), config).double()
    generator = torch.Generator().manual_seed(7)
    for name, update in updates.items():
        theirs = layer_of(oracle, name)
        A, B = theirs.lora_A["default"].weight.data, theirs.lora_B["default"].weight.data
        if "pissa" in kind:  # singular vectors are unique up to their signs
            assert torch.allclose(B @ A, update.B.data @ update.A.data, atol=1e-6)
            update.A0.copy_(A)
            update.B0.copy_(B)
        if "dora" in kind:
            magnitude = theirs.lora_magnitude_vector["default"].weight.data
            assert torch.allclose(magnitude, update.magnitude.data, atol=1e-6)
            magnitude += 0.1 * torch.rand(magnitude.shape, generator=generator, dtype=torch.float64)
            update.magnitude.data.copy_(magnitude)
        for mine, other in ((update.A, A), (update.B, B)):
            other += 0.1 * torch.randn(other.shape, generator=generator, dtype=torch.float64)
            mine.data.copy_(other)
    return oracle


def layer_of(oracle: peft.PeftModel, name: str) -> Any:
    return oracle.base_model.model.get_submodule(name.replace(".", "_"))


def outputs(adapter: Adapter, oracle: peft.PeftModel, inputs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Ours and peft's output of each map; the rows that no map covers are the plain projection's on both sides."""
    mixer, found = adapter.model.mixers[LAYER], []
    for projection in mixer.injection.updates:
        ours, _ = mixer._project(projection, inputs[projection])
        expected = inputs[projection] @ getattr(mixer, projection).weight.T
        for name, update in names_of(adapter).items():
            if name.partition(".")[0] == projection:
                theirs, bias = layer_of(oracle, name), getattr(mixer, projection).bias
                rows = theirs(inputs[projection]) - (0 if bias is None else bias)
                expected = torch.cat([expected[..., : update.start], rows, expected[..., update.end :]], -1)
        found.append((ours, expected))
    return found


def random_inputs(adapter: Adapter) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mixer = adapter.model.mixers[LAYER]
    return {
        name: torch.randn(2, 5, getattr(mixer, name).in_features, generator=generator, dtype=torch.float64)
        for name in mixer.injection.updates
    }


@pytest.mark.parametrize(("family", "targets", "kind"), CASES)
def test_outputs_gradients_steps_and_merged_weights_are_pefts(family: str, targets: list[str], kind: str) -> None:
    adapter = attached(family, targets, **KINDS[kind])
    oracle = oracle_of(adapter, kind)
    pairs = []
    for name, update in names_of(adapter).items():
        theirs = layer_of(oracle, name)
        pairs += [(update.A, theirs.lora_A["default"].weight), (update.B, theirs.lora_B["default"].weight)]
        if "dora" in kind:
            pairs.append((update.magnitude, theirs.lora_magnitude_vector["default"].weight))
    optimizers = [torch.optim.AdamW([pair[side] for pair in pairs], lr=1e-2) for side in (0, 1)]
    assert {id(parameter) for parameter, _ in pairs} == {
        id(value) for name, value in adapter.named_parameters() if f".{LAYER}." in name
    }
    tolerance = 1e-6 if "pissa" in kind else 1e-12  # peft makes the residual in float32
    for _ in range(4):
        given = [{name: x.clone().requires_grad_() for name, x in random_inputs(adapter).items()} for _ in range(2)]
        for (ours, _), (_, expected) in zip(
            outputs(adapter, oracle, given[0]), outputs(adapter, oracle, given[1]), strict=True
        ):
            assert torch.allclose(ours, expected, atol=tolerance)
            for found in (ours, expected):
                found.tanh().square().sum().backward()
        for name in given[0]:
            assert torch.allclose(given[0][name].grad, given[1][name].grad, atol=10 * tolerance)
        for mine, other in pairs:
            assert mine.grad.abs().max() > 1e-4
            assert torch.allclose(mine.grad, other.grad, atol=10 * tolerance)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for mine, other in pairs:
        assert torch.allclose(mine, other, atol=100 * tolerance)
    names = names_of(adapter)
    config, weights = merge_and_unload(adapter)
    assert config == SIZES[family]
    merged = oracle.merge_and_unload()
    for name, update in names.items():
        rows = weights[f"backbone.layers.{LAYER}.mixer.{name.partition('.')[0]}.weight"][update.start : update.end]
        assert torch.allclose(rows, merged.get_submodule(name.replace(".", "_")).weight, atol=100 * tolerance)


class Dropped(nn.Module):
    """A dropout of a half that keeps given elements."""

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x * self.kept


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(
    ("family", "projection", "parts"),
    [("mamba", "x_proj", "dt C"), ("mamba2", "in_proj", "x"), ("mamba", "dt_proj", "")],
)
def test_with_dropout_each_map_sees_its_own_dropped_input(family: str, projection: str, parts: str, kind: str) -> None:
    """peft's dropout replaced by the very elements that ours keeps."""
    targets = [f"{projection}.{part}" for part in parts.split()] or [projection]
    adapter = attached(family, targets, dropout=0.5, **KINDS[kind])
    oracle = oracle_of(adapter, kind)
    inputs = random_inputs(adapter)
    update = adapter.model.mixers[LAYER].injection.updates[projection]
    adapter.model.train()
    oracle.train()
    with adapter.model.randomness.of(torch.tensor([5, 9])):
        rows = update.randomness.rows(inputs[projection])
        kept, _ = keyed_dropout(torch.ones_like(inputs[projection]), rows, update.columns, 0.5)
        assert 0.2 < kept.mean() < 0.8
        for mask, name in zip(kept, names_of(adapter), strict=True):
            layer_of(oracle, name).lora_dropout["default"] = Dropped(mask)
        ((ours, expected),) = outputs(adapter, oracle, inputs)
    assert torch.allclose(ours, expected, atol=1e-12)
    adapter.model.eval()
    ((undropped, _),) = outputs(adapter, oracle, inputs)
    assert not torch.allclose(ours, undropped, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", SIZES)
def test_counts_in_closed_form(family: str, kind: str) -> None:
    """Against the sizes of the matrices: rank (in + out), for DoRA a length for each row."""
    for targets in TARGETS[family]:
        adapter = attached(family, targets, **KINDS[kind])
        sizes = [(update.A.shape[1], update.B.shape[0]) for update in names_of(adapter).values()]
        factors, rows = sum(3 * (width + height) for width, height in sizes), sum(height for _, height in sizes)
        assert adapter.trainable == 2 * (factors + (rows if "dora" in kind else 0))
        assert sum(tensor.numel() for tensor in adapter.fixed.values()) == (2 * factors if "pissa" in kind else 0)


def test_all_is_every_projection_of_the_family() -> None:
    for family, projections in (
        ("mamba", {"in_proj", "x_proj", "dt_proj", "out_proj"}),
        ("mamba2", {"in_proj", "out_proj"}),
    ):
        linear = {
            name for name, module in Mamba(SIZES[family]).mixers[0].named_modules() if isinstance(module, nn.Linear)
        }
        assert linear == projections == set(attached(family, ["all"]).model.mixers[0].injection.updates)


def test_pissa_refuses_a_rank_that_a_target_has_not() -> None:
    with pytest.raises(UserError, match=r"init=pissa: x_proj\.B is 4 x 32 and has no 8 singular vectors"):
        ssm_tune.attach(small_model(), "lora", rank=8, targets=["in_proj", "x_proj.B"], init="pissa")


@pytest.mark.parametrize("kind", ["pissa", "dora and pissa"])
def test_a_saved_pissa_adapter_keeps_its_start(kind: str, tmp_path: Any) -> None:
    """A device whose singular vectors have other signs, or other last digits, loads the same update."""
    adapter = attached("mamba", ["in_proj", "dt_proj"], **KINDS[kind])
    with torch.no_grad():
        for tensor in adapter.state.values():
            tensor += 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    adapter.save(tmp_path)
    fresh = ssm_tune.load_adapter(init_weights(Mamba(SIZES["mamba"]), 0).double(), tmp_path)
    tokens = torch.randint(64, (2, 7))
    with torch.no_grad():
        assert torch.equal(fresh.model(tokens), adapter.model.eval()(tokens))
