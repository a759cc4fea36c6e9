"""The scan's kernels: custom ops, graphs, gradients, views and sizes; test_grid.py holds their errors."""

from __future__ import annotations

import pytest
import torch
from helpers.scan_cases import CASE, inputs
from torch import Tensor

from ssm_tune.ops import backend
from ssm_tune.ops.cuda.compiler import KernelError
from ssm_tune.ops.selective_scan import cuda as kernels
from ssm_tune.ops.selective_scan import selective_scan

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*deterministic.*")]


def test_the_ops_pass_opcheck() -> None:
    given = inputs(CASE | {"length": 9})
    values = [None if x is None else x.detach().requires_grad_() for x in given.values()]
    torch.library.opcheck(kernels._forward, (*values, True, False, True))


def test_a_graph_replays_forward_and_backward() -> None:
    given = {name: x.detach().requires_grad_() for name, x in inputs(CASE).items() if x is not None}
    dy = torch.randn_like(given["u"])

    def work() -> tuple[Tensor, ...]:
        return torch.autograd.grad(selective_scan(**given, dt_softplus=True), list(given.values()), dy)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = work()
    torch.cuda.synchronize()
    fresh = inputs(CASE, seed=1)
    with torch.no_grad():
        for name, x in given.items():
            x.copy_(fresh[name])
    graph.replay()
    torch.cuda.synchronize()
    for name, mine, direct in zip(given, captured, work(), strict=True):
        assert torch.equal(mine, direct), name


def test_second_derivatives_are_refused_by_name() -> None:
    given = {name: x.detach().requires_grad_() for name, x in inputs(CASE).items() if x is not None}
    (du,) = torch.autograd.grad(selective_scan(**given, dt_softplus=True).sum(), given["u"], create_graph=True)
    with pytest.raises(NotImplementedError, match="selective_scan has no second derivative"):
        du.sum().backward()


def test_only_wanted_gradients_are_made() -> None:
    given = {name: x for name, x in inputs(CASE).items() if x is not None}
    given["state_offset"] = given["state_offset"].requires_grad_()
    y, last = selective_scan(**given, dt_softplus=True, output_final_state=True)
    (y.float().sum() + last.sum()).backward()
    assert given["state_offset"].grad is not None
    assert all(x.grad is None for name, x in given.items() if name != "state_offset")


def test_unaligned_views_give_the_same_as_copies() -> None:
    given = {name: x for name, x in inputs(CASE).items() if x is not None}
    shifted = torch.zeros(2, 70, 67, device="cuda", dtype=torch.bfloat16)
    shifted[:, :, 3:] = given["u"]
    turned = given["dt"].transpose(1, 2).contiguous().transpose(1, 2)
    direct = selective_scan(**given, dt_softplus=True)
    assert torch.equal(selective_scan(**(given | {"u": shifted[:, :, 3:], "dt": turned}), dt_softplus=True), direct)


def test_more_states_than_the_kernels_take_run_on_the_reference_or_are_refused() -> None:
    given = {name: x for name, x in inputs(CASE | {"states": 65}).items() if x is not None}
    assert torch.isfinite(selective_scan(**given, dt_softplus=True)).all()
    backend.use("cuda")
    with pytest.raises(KernelError, match="at most 64 states"):
        selective_scan(**given, dt_softplus=True)


@pytest.mark.parametrize("length", [5, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logarithm_of_A_is_as_good_as_A(dtype: torch.dtype, length: int) -> None:
    given = {key: x for key, x in inputs(CASE | {"dtype": dtype, "length": length}).items() if x is not None}
    log_A = (-given["A"]).log().requires_grad_()
    found = []
    for values in ({"A": log_A, "log_A": True}, {"A": -log_A.exp()}):
        y, last = selective_scan(**(given | values), dt_softplus=True, output_final_state=True)
        found.append((y, last, *torch.autograd.grad(y.float().sum() + last.sum(), log_A)))
    for mine, plain in zip(*found, strict=True):
        assert (mine.float() - plain.float()).norm() <= (
            1e-5 if dtype == torch.float32 else 2e-3
        ) * plain.float().norm()


def test_slices_that_cannot_share_memory_get_their_own() -> None:
    """z at an offset that kernels cannot write four numbers to; B and C in one place."""
    given = {key: x for key, x in inputs(CASE | {"dtype": torch.float32}).items() if x is not None}
    wide, both = torch.randn(2, 70, 131, device="cuda"), torch.randn(2, 70, 48, device="cuda")
    found = []
    for how in ("cuda", "reference"):
        backend.use(how)
        leaves = [x.clone().requires_grad_() for x in (wide, both)]
        shared = leaves[1][..., 16:32]
        y = selective_scan(**(given | {"z": leaves[0][..., 3:67], "B": shared, "C": shared}), dt_softplus=True)
        found.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    for mine, plain in zip(*found, strict=True):
        assert (mine - plain).norm() <= 1e-5 * plain.norm()
