"""Parameters of members: one operation on all their rows equals the operation on the rows of each, gradients too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssm_tune.ops.causal_conv1d import causal_conv1d
from ssm_tune.ops.fused_linear import add_low_rank, linear_with_input
from ssm_tune.ops.gated_rms_norm import gated_rms_norm
from ssm_tune.ops.member_rows import count_members, run_by_member
from ssm_tune.ops.rms_norm import add_rms_norm
from ssm_tune.ops.selective_scan import ScanInputs, selective_scan
from ssm_tune.ops.selective_scan.inputs import scan_by_member
from ssm_tune.ops.state_space_dual import state_space_dual

MEMBERS, SHARE, LENGTH = 3, 2, 5
ROWS = MEMBERS * SHARE
Shapes = dict[str, tuple[int, ...]]

SCAN_BATCH: Shapes = {"u": (LENGTH, 6), "dt": (LENGTH, 6), "B": (LENGTH, 4), "C": (LENGTH, 4), "z": (LENGTH, 6)}
SCAN: Shapes = {
    "A": (6, 4),
    "D": (6,),
    "dt_bias": (6,),
    "initial_state": (6, 4),
    "state_offset": (6, 4),
    "output_offset": (6,),
}
DUAL_BATCH: Shapes = {"x": (70, 4, 3), "dt": (70, 4), "B": (70, 2, 5), "C": (70, 2, 5)}
DUAL: Shapes = {
    "A_log": (4,),
    "D": (4,),
    "dt_bias": (4,),
    "initial_state": (4, 3, 5),
    "state_offset": (4, 3, 5),
    "output_offset": (4, 3),
}
CONV_BATCH: Shapes = {"x": (LENGTH, 6), "initial_state": (3, 6)}
CONV: Shapes = {"weight": (6, 4), "bias": (6,)}


def rows_of_linear(x: Tensor, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
    return linear_with_input(x, first, second, third)


CASES: dict[str, tuple[Callable[..., Any], Shapes, Shapes]] = {
    "scan": (partial(selective_scan, dt_softplus=True, log_A=True, output_final_state=True), SCAN_BATCH, SCAN),
    "dual": (partial(state_space_dual, output_final_state=True), DUAL_BATCH, DUAL),
    "conv": (causal_conv1d, CONV_BATCH, CONV),
    "norm": (
        partial(add_rms_norm, eps=1e-5, dtype=torch.float64),
        {"residual": (LENGTH, 6), "added": (LENGTH, 6)},
        {"weight": (6,)},
    ),
    "gated-norm": (
        partial(gated_rms_norm, eps=1e-5, groups=2),
        {"y": (LENGTH, 6), "z": (LENGTH, 6)},
        {"weight": (6,)},
    ),
    "linear": (rows_of_linear, {"x": (LENGTH, 6)}, {"first": (2, 6), "second": (3, 6), "third": (1, 6)}),
}


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def compared(
    operation: Callable[..., Any], batch: dict[str, Tensor], parameters: dict[str, tuple[Tensor, int]]
) -> None:
    """Results and all gradients, in one and member by member."""
    tensors = [*batch.values(), *(value for value, _ in parameters.values())]
    joined = operation(**batch, **{name: value for name, (value, _) in parameters.items()})
    alone = run_by_member(operation, MEMBERS, batch, parameters)
    ours, theirs = (out if isinstance(out, tuple) else (out,) for out in (joined, alone))
    weights = [torch.randn_like(out) for out in theirs]
    grads = [torch.autograd.grad(outs, tensors, weights, allow_unused=True) for outs in (ours, theirs)]
    for one, other in [*zip(ours, theirs, strict=True), *zip(*grads, strict=True)]:
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
@given(own=st.data())
@settings(max_examples=25, deadline=None)
def test_any_of_an_operations_parameters_may_be_the_members(name: str, own: st.DataObject) -> None:
    operation, batch_shapes, shapes = CASES[name]
    least = 1 if name == "linear" else 0
    chosen = own.draw(st.sets(st.sampled_from(sorted(shapes)), min_size=least))
    batch = {key: drawn((ROWS, *shape), 1 + i) for i, (key, shape) in enumerate(batch_shapes.items())}
    parameters = {}
    for i, (key, shape) in enumerate(shapes.items()):
        lead = (MEMBERS,) if key in chosen else ()
        parameters[key] = drawn((*lead, *shape), 50 + i), len(shape)
    compared(operation, batch, parameters)


def test_low_rank_updates_of_members() -> None:
    out, low = drawn((ROWS, LENGTH, 9), 1), drawn((ROWS, LENGTH, 6), 2)
    up, other = drawn((MEMBERS, 2, 3), 3), drawn((MEMBERS, 4, 3), 4)

    def operation(out: Tensor, low: Tensor, up: Tensor, other: Tensor) -> Tensor:
        parts = torch.stack([part.flatten(0, 1) for part in low.chunk(2, dim=-1)])
        return add_low_rank(out * 1.0, parts, [1, 4], 0.5, up, other)

    compared(operation, {"out": out, "low": low}, {"up": (up, 2), "other": (other, 2)})


@pytest.mark.parametrize("per_row", [False, True])
def test_the_scan_of_each_member_as_kernels_run_it(per_row: bool) -> None:
    """Where a GPU's kernels run, which take parameters of all rows alone; here around the plain scan."""
    given = {name: drawn((ROWS, *shape), 1 + i) for i, (name, shape) in enumerate(SCAN_BATCH.items())}
    given |= {name: drawn(shape, 50 + i) for i, (name, shape) in enumerate(SCAN.items())}
    given["state_offset"] = drawn((MEMBERS, 6, 4), 60)
    if per_row:
        given["initial_state"] = drawn((ROWS, 6, 4), 61)
    scan = CASES["scan"][0]
    joined = scan_by_member(scan, ScanInputs(**given))
    assert joined is not None
    for one, other in zip(joined, scan(**given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    given["state_offset"] = drawn((6, 4), 60)
    assert scan_by_member(scan, ScanInputs(**given)) is None


@pytest.mark.parametrize(("name", "shape"), [("state_offset", (4, 6, 4)), ("A", (0, 6, 4)), ("D", (3, 4))])
def test_members_that_do_not_divide_the_rows_are_refused(name: str, shape: tuple[int, ...]) -> None:
    given = {key: drawn((ROWS, *own), 1) for key, own in SCAN_BATCH.items()}
    given |= {key: drawn(own, 2) for key, own in SCAN.items()}
    with pytest.raises(ValueError, match=f"{name} must be"):
        selective_scan(**given | {name: torch.zeros(shape, dtype=torch.float64)})


def test_members_are_counted_by_their_parameters() -> None:
    assert count_members({"one": (torch.zeros(3), 1), "none": (None, 2)}) is None
    assert count_members({"one": (torch.zeros(3), 1), "own": (torch.zeros(5, 3), 1)}) == 5
