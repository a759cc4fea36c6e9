"""The adapters' parts of a scan against the plain recurrence, in float64, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.peft_features import close, fresh, logits, tuned
from helpers.peft_models import CONFIGS, tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssm_tune.peft import InitialStateConfig, StateOffsetConfig
from ssm_tune.peft.recurrent_layer import RecurrentLayer
from ssm_tune.peft.terms import read_initial_state, read_low_rank, read_state, step_sizes


def recurrence(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, offset: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """One position after the other: x, dt (B, L, D); A, offset, start (D, N); B, C (B, L, D, N)."""
    state, outputs = start.expand(len(x), -1, -1), []
    for t in range(x.shape[1]):
        state = torch.exp(dt[:, t, :, None] * A) * state + (dt[:, t] * x[:, t])[:, :, None] * B[:, t]
        outputs.append(((state + offset) * C[:, t]).sum(-1))
    return torch.stack(outputs, 1), state


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 9),
    groups=st.sampled_from([1, 2, 4]),
    heads=st.sampled_from([4, 8]),
    width=st.integers(1, 3),
    states=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_the_terms_are_what_the_recurrence_adds(
    length: int, groups: int, heads: int, width: int, states: int, seed: int
) -> None:
    D = heads * width
    x, dt = draw(2, length, D, seed=seed), draw(2, length, heads, seed=seed + 1).exp()
    A, B, C = -draw(heads, seed=seed + 2).exp(), *(draw(2, length, groups, states, seed=seed + i) for i in (3, 4))
    offset, start = draw(D, states, seed=seed + 5), draw(D, states, seed=seed + 6)

    def per_channel(value: Tensor) -> Tensor:
        return value.repeat_interleave(D // value.shape[2], dim=2)

    wide = (x, per_channel(dt), A.repeat_interleave(width)[:, None].expand(D, states), per_channel(B), per_channel(C))
    zero = torch.zeros_like(offset)
    plain, plain_last = recurrence(*wide, zero, zero)
    with_offset, _ = recurrence(*wide, offset, zero)
    with_start, start_last = recurrence(*wide, zero, start)
    torch.testing.assert_close(read_state(C, offset), with_offset - plain)
    y, last = read_initial_state(C, dt, A, start)
    torch.testing.assert_close(y, with_start - plain)
    torch.testing.assert_close(last, start_last - plain_last)
    U, V = draw(D, 2, seed=seed + 7), draw(2, states, seed=seed + 8)
    torch.testing.assert_close(read_low_rank(C, U, V), read_state(C, U @ V))


def test_the_initial_state_of_a_decay_a_state_is_what_the_recurrence_adds() -> None:
    x, dt, A = draw(2, 6, 4), draw(2, 6, 4, seed=1).exp(), -draw(4, 3, seed=2).exp()
    B, C, start = draw(2, 6, 1, 3, seed=3), draw(2, 6, 1, 3, seed=4), draw(4, 3, seed=5)
    wide = (x, dt, A, B.expand(-1, -1, 4, -1), C.expand(-1, -1, 4, -1))
    zero = torch.zeros_like(start)
    (plain, plain_last), (moved, moved_last) = recurrence(*wide, zero, zero), recurrence(*wide, zero, start)
    y, last = read_initial_state(C, dt, A, start)
    torch.testing.assert_close(y, moved - plain)
    torch.testing.assert_close(last, moved_last - plain_last)


def test_step_sizes_are_a_scans_and_zero_at_padding() -> None:
    dt, bias, mask = draw(2, 4, 3), draw(3, seed=1), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    sizes = step_sizes(dt, bias, True, (0.1, 0.9), mask)
    expected = nn.functional.softplus(dt + bias).clamp(0.1, 0.9) * mask[:, :, None]
    torch.testing.assert_close(sizes, expected)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("config", [StateOffsetConfig(rank=2), InitialStateConfig()], ids=["offset", "start"])
def test_gradients_are_the_slope_of_the_loss(name: str, config: Any) -> None:
    """Along a random direction, against a central difference, in float64."""
    model = tuned(name, config).double()
    if name in ("Jamba", "GraniteMoeHybrid"):  # the grouped product of its experts takes no float64
        model.get_base_model().set_experts_implementation("eager")
    ids, trained = tokens(2, 7), [parameter for parameter in model.parameters() if parameter.requires_grad]
    model(ids, labels=ids).loss.backward()
    directions = [draw(*parameter.shape, seed=i) for i, parameter in enumerate(trained)]
    slope = sum((parameter.grad * one).sum() for parameter, one in zip(trained, directions, strict=True))

    def moved(by: float) -> Tensor:
        with torch.no_grad():
            for parameter, one in zip(trained, directions, strict=True):
                parameter.add_(one, alpha=by)
            found: Tensor = model(ids, labels=ids).loss.double()
            for parameter, one in zip(trained, directions, strict=True):
                parameter.sub_(one, alpha=by)
        return found

    # transformers computes parts of a scan in float32 whatever the model's dtype is, so steps are not tiny
    step = 2e-3
    torch.testing.assert_close((moved(step) - moved(-step)) / (2 * step), torch.as_tensor(slope), rtol=1e-2, atol=1e-4)


def test_the_terms_pass_gradcheck() -> None:
    C, U, V = draw(1, 3, 2, 4).requires_grad_(), draw(6, 2).requires_grad_(), draw(2, 4).requires_grad_()
    assert torch.autograd.gradcheck(read_low_rank, (C, U, V))
    start, dt, A = draw(6, 4).requires_grad_(), draw(1, 3, 3).exp().requires_grad_(), -draw(3).exp()
    assert torch.autograd.gradcheck(
        lambda *inputs: read_initial_state(inputs[0], inputs[1], A, inputs[2]), (C, dt, start)
    )


@pytest.mark.parametrize("name", ["Mamba", "FalconH1"])
def test_a_cache_keeps_the_initial_state(name: str) -> None:
    """A first chunk of one token and of several, with an empty cache passed by the caller."""
    from transformers import DynamicCache

    model = tuned(name, InitialStateConfig())
    ids = tokens(2, 8)
    for first in (1, 4):
        cache = DynamicCache(config=model.get_base_model().config)
        key = "cache_params" if name == "Mamba" else "past_key_values"
        close(logits(model, ids[:, :first], use_cache=True, **{key: cache}), logits(model, ids)[:, :first])
        close(logits(model, ids[:, first : first + 1], use_cache=True, **{key: cache}), logits(model, ids)[:, [first]])


def test_a_layer_says_what_it_scans_with() -> None:
    model = tuned("Mamba")
    logits(model, tokens(1, 3))
    assert {layer.path for layer in model.modules() if isinstance(layer, RecurrentLayer)} == {"transformers"}


def test_attention_layers_are_left_alone() -> None:
    base, model = fresh("Bamba"), tuned("Bamba")
    kinds = [type(module) for module in model.get_base_model().modules() if not isinstance(module, nn.ParameterDict)]
    layers = [kind for kind in kinds if issubclass(kind, RecurrentLayer)]
    assert len(layers) == 2
    assert len(kinds) - len(layers) == len(list(base.modules()))
