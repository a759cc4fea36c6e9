"""The scan against the naive recurrence in float64, and its gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssm_tune.ops.selective_scan import ScanInputs, cpu, selective_scan
from ssm_tune.ops.selective_scan.naive import naive_selective_scan


def inputs(batch: int, length: int, channels: int, states: int, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "u": draw(batch, length, channels),
        "dt": draw(batch, length, channels),
        "A": -draw(channels, states).abs() - 0.01,
        "B": draw(batch, length, states),
        "C": draw(batch, length, states),
        "D": draw(channels),
        "z": draw(batch, length, channels),
        "dt_bias": draw(channels),
        "initial_state": draw(channels, states),
        "state_offset": draw(channels, states),
        "output_offset": draw(channels),
    }


def naive(arguments: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return naive_selective_scan(ScanInputs(**arguments), dt_softplus=True)


def scan(arguments: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return selective_scan(**arguments, dt_softplus=True, output_final_state=True)


@pytest.fixture(params=[cpu._CHUNK_ELEMENTS["cpu"], 40], ids=["one-chunk", "many-chunks"])
def chunking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cpu._CHUNK_ELEMENTS, "cpu", request.param)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("length", [1, 2, 7, 65])
def test_outputs_and_gradients_equal_the_naive_recurrence(length: int) -> None:
    arguments = {name: value.requires_grad_() for name, value in inputs(2, length, 6, 3, torch.float64).items()}
    names = list(arguments)
    ours, theirs = scan(arguments), naive(arguments)
    weights = [torch.randn_like(out) for out in theirs]
    mine = torch.autograd.grad(ours, [arguments[name] for name in names], weights)
    oracle = torch.autograd.grad(theirs, [arguments[name] for name in names], weights)
    for name, a, b in zip(["y", "last_state", *names], [*ours, *mine], [*theirs, *oracle], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10), name


@pytest.mark.parametrize("left_out", ["D", "z", "dt_bias", "initial_state", "state_offset", "output_offset"])
def test_an_input_may_be_left_out(left_out: str) -> None:
    arguments = {name: value for name, value in inputs(2, 5, 6, 3, torch.float64).items() if name != left_out}
    for ours, theirs in zip(scan(arguments), naive(arguments), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("per_row", [False, True], ids=["shared-start", "start-per-row"])
def test_gradcheck_for_every_input_and_the_last_state(per_row: bool) -> None:
    arguments = inputs(2, 5, 4, 3, torch.float64)
    if per_row:
        arguments["initial_state"] = torch.randn(2, 4, 3, dtype=torch.float64)
    names, values = list(arguments), [value.requires_grad_() for value in arguments.values()]

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return scan(dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, values)


@given(length=st.integers(2, 40), cut=st.integers(1, 39), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_one_pass_equals_pieces_with_the_state_carried(length: int, cut: int, seed: int) -> None:
    cut = min(cut, length - 1)
    arguments = inputs(2, length, 5, 4, torch.float64, seed)
    whole, last = scan(arguments)
    along = ("u", "dt", "B", "C", "z")
    head, state = scan({n: v[:, :cut] if n in along else v for n, v in arguments.items()})
    rest = {n: v[:, cut:] if n in along else v for n, v in arguments.items()}
    tail, end = scan(rest | {"initial_state": state})
    assert torch.allclose(torch.cat([head, tail], 1), whole, rtol=1e-12, atol=1e-12)
    assert torch.allclose(end, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_offsets_and_zero_start_are_bit_identical_to_none(dtype: torch.dtype) -> None:
    arguments = inputs(2, 33, 8, 4, dtype)
    names = ("initial_state", "state_offset", "output_offset")
    zeros = {name: torch.zeros_like(arguments[name]) for name in names}
    without = {name: value for name, value in arguments.items() if name not in names}
    for ours, base in zip(scan(arguments | zeros), scan(without), strict=True):
        assert torch.equal(ours, base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_at_most_twice_that_of_a_rounded_float64_scan(dtype: torch.dtype) -> None:
    """State and sums in float32: what is left is the rounding of inputs and output (and float32's own)."""
    narrow = inputs(2, 100, 16, 8, dtype)
    exact = naive({name: value.double() for name, value in narrow.items()})[0]
    baseline = naive({name: value.float() for name, value in narrow.items()})[0].to(dtype)
    ours = scan(narrow)[0]
    assert (ours.double() - exact).abs().max() <= 2 * (baseline.double() - exact).abs().max()


def test_only_wanted_gradients_are_made() -> None:
    arguments = inputs(1, 4, 3, 2, torch.float32)
    arguments["state_offset"].requires_grad_()
    y, last = scan(arguments)
    assert y.requires_grad
    assert not last.requires_grad  # the offset never enters the state
    y.sum().backward()
    assert arguments["state_offset"].grad is not None
    assert all(value.grad is None for name, value in arguments.items() if name != "state_offset")


@pytest.mark.parametrize("value", [-60.0, -2.0, 30.0, 90.0])
def test_extreme_step_sizes_stay_finite(value: float) -> None:
    arguments = inputs(1, 20, 3, 2, torch.float32)
    arguments["dt"] = torch.full_like(arguments["dt"], value)
    arguments["A"] = torch.full_like(arguments["A"], -8.9e6)  # additional_scan's official start
    arguments = {name: tensor.requires_grad_() for name, tensor in arguments.items()}
    y, last = scan(arguments)
    (y.sum() + last.sum()).backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(tensor.grad).all() for tensor in arguments.values() if tensor.grad is not None)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("B", (2, 5, 3), "B must be (2, 5, 4)"),
        ("state_offset", (4, 6), "state_offset must be (6, 4)"),
        ("initial_state", (3, 6, 4), "initial_state must be (6, 4) or (M, 6, 4) with M a divisor of 2"),
        ("dt", (2, 4, 6), "dt must be (2, 5, 6)"),
        ("D", (4,), "D must be (6,)"),
        ("u", (2, 0, 6), "no dimension may be empty"),
    ],
)
def test_shapes_that_do_not_fit_are_named(name: str, shape: tuple[int, ...], said: str) -> None:
    arguments = inputs(2, 5, 6, 4, torch.float32)
    arguments[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match="selective_scan") as caught:
        scan(arguments)
    assert said in str(caught.value)


def test_the_logarithm_of_A_stands_for_A() -> None:
    given = inputs(2, 7, 3, 4, torch.float64)
    log_A = (-given["A"].detach()).log().requires_grad_()
    found = []
    for values in ({"A": log_A, "log_A": True}, {"A": -log_A.exp()}):
        y, last = selective_scan(**(given | values), dt_softplus=True, output_final_state=True)
        found.append((y, last, *torch.autograd.grad(y.sum() + last.sum(), log_A)))
    for mine, plain in zip(*found, strict=True):
        torch.testing.assert_close(mine, plain)


def test_a_second_derivative_is_refused() -> None:
    given = inputs(2, 3, 3, 4, torch.float64)
    u = given["u"].detach().requires_grad_()
    with pytest.raises(NotImplementedError, match="selective_scan has no second derivative"):
        torch.autograd.grad(selective_scan(**given | {"u": u}).sum(), u, create_graph=True)
