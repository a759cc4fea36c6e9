"""What is special to one method: published counts, LoRA against peft, meanings against the equations, refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from helpers.small_models import small_model
from torch import nn

import ssm_tune
from ssm_tune.config.groups import method_section
from ssm_tune.methods.adapter import Adapter, attach
from ssm_tune.methods.base import load_method
from ssm_tune.models.adapter_slots import LearnedTensor
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.training.sanity_checks import TrainabilityCheck
from ssm_tune.utils.errors import UserError

# (mamba-130m, mamba-1.4b): the paper's own counts for the published five, hand-derived sums for the others
PUBLISHED = {
    "state_offset": (589_824, 3_145_728),
    "state_offset_y": (36_864, 196_608),
    "initial_state": (589_824, 3_145_728),
    "lora": (1_204_224, 6_402_048),
    "combined": (589_824 + 24 * 8 * (3 * 1536 + 2 * 768), 3_145_728 + 48 * 8 * (3 * 4096 + 2 * 2048)),
    "additional_scan": (884_736, 4_718_592),
    "bitfit": (24 * 2 * 1536, 48 * 2 * 4096),
    "partial": (24 * 1536 * (16 + 1 + 5 + 1), 48 * 4096 * (16 + 1 + 5 + 1)),
    "sdt": (
        24 * (15 * 4 + 2 * 16 * 15 + 8 * (1536 + 768)),
        48 * (41 * 4 + 2 * 16 * 41 + 8 * (4096 + 2048)),
    ),
    "prompt": (16 * 768, 16 * 2048),
    "prefix": (24 * 16 * 768, 48 * 16 * 2048),
    "full": (129_135_360, 1_372_178_432),
}
SIZES = (MambaConfig(768, 24, 50_280), MambaConfig(2048, 48, 50_280))


@pytest.mark.parametrize("name", PUBLISHED)
def test_trainable_counts_of_the_papers_models(name: str) -> None:
    method = load_method(method_section(name))
    assert tuple(method.num_trainable_params(config) for config in SIZES) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "full"])
def test_attaching_to_mamba_130m_trains_that_count(name: str) -> None:
    with torch.device("meta"):
        model = Mamba(SIZES[0])
    model.to_empty(device="cpu") if name == "prompt" else None  # it copies rows of the embedding
    with torch.device("cpu"):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        method = load_method(method_section(name))
        method.apply(model, torch.Generator().manual_seed(0))
    assert Adapter(method, model).trainable == PUBLISHED[name][0]


class SplitProjections(nn.Module):
    """The projections of one block as the official code has them: x_proj in three parts, dt_proj."""

    def __init__(self, model: Mamba, layer: int) -> None:
        super().__init__()
        mixer, config = model.mixers[layer], model.config
        weights = mixer.x_proj.weight.split([config.dt_rank, config.d_state, config.d_state])
        for name, weight in zip(("x_proj_dt", "x_proj_B", "x_proj_C"), weights, strict=True):
            setattr(self, name, nn.Linear(config.d_inner, weight.shape[0], bias=False))
            getattr(self, name).weight.data.copy_(weight)
        self.dt_proj = nn.Linear(config.dt_rank, config.d_inner)
        self.dt_proj.load_state_dict(mixer.dt_proj.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = self.dt_proj(self.x_proj_dt(x))
        return torch.cat([step, self.x_proj_B(x), self.x_proj_C(x)], -1)


def test_lora_equals_peft_on_the_same_weights() -> None:
    model = small_model(torch.float64)
    method = load_method(method_section("lora", {"dropout": 0.0, "rank": 3, "alpha": 5}))
    adapter = attach(model, method, seed=3, dtype=torch.float64)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    targets = ["dt_proj", "x_proj_dt", "x_proj_B", "x_proj_C"]
    config = peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.0, bias="none", target_modules=targets)
    oracle = peft.get_peft_model(SplitProjections(model, 1).double(), config)
    for name in targets:
        ours, _, part = name.rpartition("_") if name != "dt_proj" else ("dt_proj", "", "dt_proj")
        update = model.mixers[1].injection.updates[ours].parts[part]
        theirs = oracle.base_model.model.get_submodule(name)
        theirs.lora_A["default"].weight.data.copy_(update.A.data)
        theirs.lora_B["default"].weight.data.copy_(update.B.data)
    x = torch.randn(2, 5, model.config.d_inner, dtype=torch.float64)
    dt, _, B, C, _ = model.mixers[1]._scan_inputs(x)
    step = dt + model.mixers[1].dt_proj.bias
    expected = oracle(x)
    assert torch.allclose(torch.cat([step, B, C], -1), expected, atol=1e-12)
    weight = torch.randn_like(expected)
    (torch.cat([step, B, C], -1) * weight).sum().backward()
    (expected * weight).sum().backward()
    update = model.mixers[1].injection.updates["x_proj"].parts["B"]
    theirs = oracle.base_model.model.x_proj_B
    assert torch.allclose(update.A.grad, theirs.lora_A["default"].weight.grad, atol=1e-12)
    assert torch.allclose(update.B.grad, theirs.lora_B["default"].weight.grad, atol=1e-12)


def test_lora_drops_its_input_in_training_alone() -> None:
    model = small_model()
    adapter = attach(model, load_method(method_section("lora", {"dropout": 0.5})))
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randint(64, (1, 6))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_prefix_is_affix_tuning_of_a_causal_block() -> None:
    """Running the virtual tokens first and carrying the states is the same as reading one long sequence, of which
    tokens behind the input are read by none."""
    mixer = small_model(torch.float64).mixers[0]
    before, hidden, after = torch.randn(5, 16).double(), torch.randn(2, 7, 16).double(), torch.randn(3, 16).double()
    after.requires_grad_()
    whole = torch.cat([before.expand(2, -1, -1), hidden, after.expand(2, -1, -1)], 1)
    expected = mixer(whole)[0][:, 5:12]
    (unread,) = torch.autograd.grad(expected.sum(), after)
    assert not unread.any()
    mixer.injection.prefix = LearnedTensor(before)
    assert torch.allclose(mixer(hidden)[0], expected, atol=1e-12)


def test_prompt_equals_embeddings_before_the_input() -> None:
    model = small_model(torch.float64)
    first, tokens = torch.tensor([[7, 8, 9]]), torch.randint(64, (1, 5))
    expected = model(torch.cat([first, tokens], 1))[:, 3:]
    model.prompt = LearnedTensor(model.backbone.embedding.weight.detach()[first[0]].clone())
    assert torch.allclose(model(tokens), expected, atol=1e-12)


def test_a_full_rank_product_is_the_full_offset() -> None:
    full, low = small_model(torch.float64), small_model(torch.float64)
    attach(full, load_method(method_section("state_offset")), dtype=torch.float64)
    attach(low, load_method(method_section("state_offset", {"rank": 4})), dtype=torch.float64)
    for one, other in zip(full.mixers, low.mixers, strict=True):
        nn.init.normal_(other.injection.state_offset.V)
        one.injection.state_offset.value.data.copy_(other.injection.state_offset())
    tokens = torch.randint(64, (2, 6))
    assert torch.allclose(full(tokens), low(tokens), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lora", {"targets": ["dt_proj", "q_proj"]}, "'q_proj' matches no projection"),
        ("lora", {"targets": []}, "at least one projection"),
        ("lora", {"targets": ["x_proj", "x_proj.B"]}, "the whole or its parts"),
        ("lora", {"rank": 0}, "method.rank must be a whole number from 1"),
        ("lora", {"dropout": 1.0}, "method.dropout must be a number in [0, 1)"),
        ("lora", {"alpha": "8"}, "method.alpha must be a positive number"),
        ("state_offset", {"rank": 2.5}, "method.rank must be a whole number"),
        ("state_offset", {"learning_rate": -1e-3}, "method.learning_rate must be a positive number"),
        ("additional_scan", {"a_init": "s5d"}, "official or s4d"),
        ("full", {"scope": "some"}, "all or s6"),
        ("prefix", {"tokens": True}, "method.tokens must be a whole number"),
        ("prefix", {"token": 3}, "prefix has no option 'token': did you mean tokens"),
    ],
)
def test_options_that_cannot_work_are_refused(name: str, options: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError) as caught:
        attach(small_model(), load_method(method_section(name, options)))
    assert said in str(caught.value)


def test_a_second_method_on_one_model_is_refused() -> None:
    model = small_model()
    attach(model, load_method(method_section("bitfit")))
    with pytest.raises(UserError, match="carries a method already"):
        attach(model, load_method(method_section("lora")))


def step_of(model: Mamba) -> None:
    model(torch.randint(1, 64, (2, 6))).float().logsumexp(-1).mean().backward()


def test_the_gate_names_a_parameter_without_gradient() -> None:
    adapter = attach(small_model(), load_method(method_section("state_offset_y")))
    gate = TrainabilityCheck(adapter)
    slot = adapter.model.mixers[1].injection
    slot.output_offset = None  # as a fused path would that forgets the slot
    step_of(adapter.model)
    with pytest.raises(UserError, match=r"layers\.1\.mixer\.injection\.output_offset\.value .* no gradient"):
        gate.after_backward(1)


def test_the_gate_names_what_did_not_move_and_what_should_not_have() -> None:
    adapter = attach(small_model(), load_method(method_section("bitfit")))
    gate = TrainabilityCheck(adapter)
    with pytest.raises(UserError, match="did not move in 3 steps"):
        gate.finish(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 1
        adapter.model.backbone.norm_f.weight[3] += 1e-6
    with pytest.raises(UserError, match=r"the frozen backbone\.norm_f\.weight changed"):
        gate.finish(3)


def test_additional_scan_may_move_its_memoryless_states_where_steps_are_tiny() -> None:
    """Pretrained models have step sizes near zero, where exp(dt A) is not quite zero even at A = -e^16."""
    model = small_model()
    with torch.no_grad():
        for mixer in model.mixers:
            mixer.dt_proj.bias.fill_(-18.0)
    adapter = attach(model, load_method(method_section("additional_scan")))
    gate = TrainabilityCheck(adapter)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    for step in (1, 2, 3):
        optimizer.zero_grad()
        step_of(model)
        gate.after_backward(step)
        optimizer.step()
    gate.finish(3)
    still = [name for name in adapter.state if name in gate.may_stay_fixed]
    assert any(not torch.equal(adapter.state[name], gate.start[name]) for name in still)


def test_a_saved_adapter_loads_through_the_api(tmp_path: Path) -> None:
    adapter = attach(small_model(), load_method(method_section("lora", {"rank": 2})))
    nn.init.normal_(next(iter(adapter.parameters())))
    adapter.save(tmp_path)
    loaded = ssm_tune.load_adapter(small_model(), tmp_path)
    assert all(torch.equal(loaded.state[name], value) for name, value in adapter.named_parameters())
    with pytest.raises(UserError, match="does not fit the model"):
        ssm_tune.load_adapter(Mamba(MambaConfig(24, 2, 64)), tmp_path)


@pytest.mark.parametrize("training", [False, True])
def test_added_modules_take_the_models_mode(tmp_path: Path, training: bool) -> None:
    adapter = attach(small_model().train(training), load_method(method_section("lora", {"dropout": 0.5})))
    assert {module.training for module in adapter.model.modules()} == {training}
    adapter.save(tmp_path)
    loaded = ssm_tune.load_adapter(small_model().train(training), tmp_path)
    assert {module.training for module in loaded.model.modules()} == {training}


@pytest.mark.parametrize("count", [0, -1, 10**12, 2.0, True])
def test_counts_out_of_range_are_refused(count: object) -> None:
    for name, option in (("lora", "rank"), ("prompt", "tokens"), ("additional_scan", "states")):
        with pytest.raises(UserError, match=f"method.{option} must be a whole number from 1"):
            load_method(method_section(name, {option: count}))


def test_parameters_are_counted_in_the_words_of_peft(capsys: pytest.CaptureFixture[str]) -> None:
    adapter = attach(small_model(), load_method(method_section("lora", {"rank": 2})))
    adapter.print_trainable_parameters()
    ours = capsys.readouterr().out
    counts = adapter.trainable, sum(parameter.numel() for parameter in adapter.model.parameters())
    peft.PeftModel.print_trainable_parameters(SimpleNamespace(get_nb_trainable_parameters=lambda: counts))
    assert ours == capsys.readouterr().out
