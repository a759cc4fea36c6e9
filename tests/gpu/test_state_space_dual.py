"""The state space dual scan's Triton kernels: errors over a pairwise grid, graphs, gradients, views and updates."""

from __future__ import annotations

import pytest
import torch
from gpu.check_ssd import in_a_process, is_right
from helpers.ssd_cases import CASE, EVERY, chunked, inputs, naive, run, worst_ratio
from helpers.ssd_gpu_cases import CASES, name_of
from torch import Tensor

from ssm_tune.ops import backend
from ssm_tune.ops.cuda.compiler import KernelError
from ssm_tune.ops.state_space_dual import state_space_dual, state_space_dual_update

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*deterministic.*")]
BLOCK = CASE | {"dtype": torch.bfloat16, "width": 64, "states": 128}


@pytest.fixture(autouse=True)
def on_the_kernels(poisoned: None) -> None:
    backend.use("cuda")


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: name_of(CASES[number]))
def test_errors_are_at_most_twice_those_of_rounding(number: int) -> None:
    """In a process of its own: after an illegal access a process's other launches fail as well."""
    found = in_a_process(number)
    assert is_right(found), found


@pytest.mark.parametrize("length", [5, 64, 200])
def test_outputs_and_gradients_are_those_of_the_recurrence(length: int) -> None:
    given = inputs(BLOCK | {"length": length, "lengths": True, "groups": 2}, "cuda")
    dy, d_final = torch.randn_like(given["x"]), torch.randn(2, 4, 64, 128, device="cuda")
    ours = run(chunked, given, EVERY, dy, d_final)
    plain, exact = (run(naive, given, EVERY, dy, d_final, dtype) for dtype in (torch.float32, torch.float64))
    worst = worst_ratio(ours, plain, exact, torch.bfloat16)
    assert worst[0] <= 2, worst


def test_a_graph_replays_forward_and_backward() -> None:
    given = inputs(BLOCK | {"length": 200}, "cuda")
    own = {name: x.detach().requires_grad_() for name, x in given.items() if isinstance(x, Tensor)}
    dy = torch.randn_like(own["x"])

    def work() -> tuple[Tensor, ...]:
        return torch.autograd.grad(state_space_dual(**own), list(own.values()), dy)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = work()
    torch.cuda.synchronize()
    fresh = inputs(BLOCK | {"length": 200}, "cuda", seed=1)
    with torch.no_grad():
        for name, x in own.items():
            x.copy_(fresh[name])
    graph.replay()
    torch.cuda.synchronize()
    for name, mine, direct in zip(own, captured, work(), strict=True):
        assert torch.equal(mine, direct), name


@pytest.mark.parametrize("wanted", [{"state_offset"}, {"initial_state"}, {"x"}, {"B"}, {"C"}, {"dt"}, {"D", "dt_bias"}])
@pytest.mark.parametrize("length", [60, 130])
def test_each_gradient_alone_is_that_among_all(wanted: set[str], length: int) -> None:
    given = inputs(BLOCK | {"length": length}, "cuda")
    dy, d_final = torch.randn_like(given["x"]), torch.randn(2, 4, 64, 128, device="cuda")
    alone, every = (run(chunked, given, names, dy, d_final) for names in (wanted, EVERY))
    for name, value in alone.items():
        assert (value.float() - every[name].float()).norm() <= 1e-3 * every[name].float().norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("states", [16, 20, 128])
def test_an_update_is_one_position_of_the_scan(states: int, dtype: torch.dtype) -> None:
    case = CASE | {"length": 1, "batch": 6, "groups": 2, "states": states, "dtype": dtype, "start": "rows"}
    given = inputs(case, "cuda")
    y, final = naive(**{n: x.double() if isinstance(x, Tensor) else x for n, x in given.items()})
    state, into = given.pop("initial_state"), torch.full(final.shape, torch.nan, device="cuda")
    here = {n: x[:, 0] if n in ("x", "dt", "B", "C") else x for n, x in given.items() if n != "lengths"}
    order = torch.tensor([3, 1, 4, 0, 5, 2], device="cuda")
    scattered = torch.empty_like(state)
    scattered[order] = state  # row r of the inputs continues from row order[r]
    beam, taken = state_space_dual_update(scattered, **here, source=order, into=into)
    assert taken is into
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(beam.double(), y[:, 0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(into.double(), final, rtol=1e-5, atol=1e-5)
    direct, changed = state_space_dual_update(state, **here)
    assert changed is state  # in place
    assert torch.equal(direct, beam)
    assert torch.equal(changed, into)


def test_second_derivatives_are_refused_by_name() -> None:
    given = inputs(BLOCK, "cuda")
    x = given["x"].detach().requires_grad_()
    with pytest.raises(NotImplementedError, match="state_space_dual has no second derivative"):
        torch.autograd.grad(state_space_dual(**given | {"x": x}).sum(), x, create_graph=True)


def test_more_states_than_the_kernels_take_run_on_plain_pytorch_or_are_refused() -> None:
    given = inputs(CASE | {"states": 300}, "cuda")
    backend.use("auto")
    assert torch.isfinite(state_space_dual(**given)).all()
    backend.use("cuda")
    with pytest.raises(KernelError, match="at most 256 states"):
        state_space_dual(**given)
