"""Products that add their gradient where another lies, against the plain operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_tune.ops.fused_linear import add_low_rank, batched_linear, linear_with_input, split_linear
from ssm_tune.ops.packed_gradients import (
    SplitSlices,
    allocate_gradients,
    packed_base,
    slice_groups,
    slice_layout,
    slice_views,
    unpack_gradients,
)

Work = Callable[..., list[Tensor]]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def beside(x: Tensor, *rows: Tensor) -> list[Tensor]:
    out, x = linear_with_input(x, *rows)
    return [out, x.cos()]


def plainly_beside(x: Tensor, *rows: Tensor) -> list[Tensor]:
    return [F.linear(x, torch.cat(rows)), x.cos()]


def split(joined: Tensor, weight: Tensor) -> list[Tensor]:
    out, first, second, third = split_linear(joined, weight, (3, 2, 2))
    return [out, first.sin(), second.cos(), third.exp()]


def plainly_split(joined: Tensor, weight: Tensor) -> list[Tensor]:
    first, second, third = joined.split([3, 2, 2], dim=-1)
    return [F.linear(first, weight), first.sin(), second.cos(), third.exp()]


def low_rank(base: Tensor, low: Tensor, *ups: Tensor) -> list[Tensor]:
    return [add_low_rank(base * 2, low, [1, 4], 0.7, *ups)]


def plain_low_rank(base: Tensor, low: Tensor, *ups: Tensor) -> list[Tensor]:
    added = [
        F.pad(0.7 * part @ up.t(), (start, 6 - start - len(up)))
        for part, up, start in zip(low, ups, (1, 4), strict=True)
    ]
    return [base * 2 + sum(added).unflatten(0, base.shape[:2])]  # type: ignore[union-attr]


CASES: dict[str, tuple[Work, Work, list[Tensor]]] = {
    "one": (beside, plainly_beside, [draw(2, 3, 4), draw(5, 4)]),
    "several": (beside, plainly_beside, [draw(2, 3, 4), draw(2, 4), draw(3, 4)]),
    "a position": (beside, plainly_beside, [draw(3, 4), draw(2, 4)]),
    "split": (split, plainly_split, [draw(2, 3, 7), draw(5, 3)]),
    "low rank": (low_rank, plain_low_rank, [draw(2, 3, 6), draw(2, 6, 2), draw(3, 2), draw(2, 2)]),
    "slices": (
        lambda x: [t * t for t in SplitSlices.apply(x, 3, 1, 3)],
        lambda x: [t * t for t in x.split([3, 1, 3], dim=-1)],
        [draw(2, 3, 7)],
    ),
    "each": (lambda x, w: [batched_linear(x, w)], lambda x, w: [x @ w.mT], [draw(2, 5, 4), draw(2, 3, 4)]),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_plain_ones(name: str) -> None:
    ours, plain, given_ones = CASES[name]
    for trained in range(1, 2 ** len(given_ones)):  # every choice of what wants a gradient
        found = []
        for work in (ours, plain):
            leaves = [x.clone().requires_grad_(bool(trained >> i & 1)) for i, x in enumerate(given_ones)]
            outputs = work(*leaves)
            torch.manual_seed(0)
            sum((out * torch.randn_like(out)).sum() for out in outputs).backward()  # type: ignore[union-attr]
            found.append([*outputs, *(x.grad for x in leaves if x.requires_grad)])
        for mine, expected in zip(*found, strict=True):
            torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_are_refused(name: str) -> None:
    ours, _, given_ones = CASES[name]
    leaves = [x.clone().requires_grad_() for x in given_ones]
    with pytest.raises(NotImplementedError, match="has no second derivative"):
        torch.autograd.grad(ours(*leaves)[0].sum(), leaves, create_graph=True)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_recorded_where_no_gradient_is_asked_for(name: str) -> None:
    ours, plain, given_ones = CASES[name]
    with torch.no_grad():
        for mine, expected in zip(ours(*given_ones), plain(*given_ones), strict=True):
            assert not mine.requires_grad
            torch.testing.assert_close(mine, expected)


@given(st.integers(1, 3), st.integers(1, 5), st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
def test_slices_find_their_layout(rows: int, length: int, sizes: list[int], data: Any) -> None:
    whole = draw(rows, length, sum(sizes))
    slices = whole.split(sizes, dim=-1)
    chosen = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1)))
    layout = slice_layout(*(slices[i] for i in chosen))
    assert layout is not None
    assert (layout.shape, layout.sizes) == (whole.shape, tuple(sizes[i] for i in chosen))
    assert list(layout.starts) == [sum(sizes[:i]) for i in chosen]
    memory = torch.empty_like(whole)
    gradients = slice_views(memory, layout)
    for gradient, i in zip(gradients, chosen, strict=True):
        gradient.copy_(slices[i])
    assert packed_base(gradients, layout.starts, sum(sizes)) is memory
    assert packed_base(gradients, layout.starts, sum(sizes)) is None  # once
    for i in chosen:
        assert torch.equal(memory.split(sizes, dim=-1)[i], slices[i])


def test_what_was_not_made_to_be_joined_is_left_alone() -> None:
    whole, other = draw(2, 3, 8), draw(2, 3, 8)
    left, right = whole.chunk(2, dim=-1)
    assert packed_base([right], [4], 8) is None  # a slice as any other, of memory that may hold something
    assert packed_base([None], [4], 8) is None
    assert slice_layout(whole) is None
    assert (
        slice_layout(left, left) is slice_layout(left, whole[..., 2:6]) is None
    )  # they would be written over each other
    assert slice_layout(left, other.chunk(2, dim=-1)[1]) is None
    assert slice_layout(left, right.float()) is None
    assert slice_layout(whole.transpose(0, 1).chunk(2, dim=-1)[0]) is None
    layout = slice_layout(left, right)
    assert layout is not None
    one, two = slice_views(whole, layout)
    assert packed_base([one, two.clone()], [0, 4], 8) is None
    assert packed_base([one], [0], 16) is None
    assert packed_base([two], [0], 8) is None
    assert packed_base([one, two], [0, 4], 8) is whole


def test_gradients_of_slices_get_one_memory_where_that_is_worth_it() -> None:
    whole, alone = torch.randn(2, 3, 24), torch.randn(2, 3, 8)
    low, B, C = whole.split([8, 8, 8], dim=-1)
    z = torch.randn(2, 3, 19)[..., 3:11]  # where kernels cannot write four numbers at a time
    given, together = [alone, B, C, z, None], [[1, 2], [3], [4]]
    groups = slice_groups(given, [True, True, True, True, False], together)
    assert [numbers for numbers, _ in groups] == [[1, 2]]
    memory = allocate_gradients(given, [True, True, True, True, False], groups)
    assert [tuple(x.shape) for x in memory] == [(2, 3, 8), (2, 3, 24), (0,), (2, 3, 8), (0,)]
    gradients = unpack_gradients(memory, groups)
    assert gradients[0] is memory[0]
    assert packed_base(gradients[1:3], (8, 16), 24) is memory[1]
    assert slice_groups(given, [True, True, False, True, False], together) == []  # C's gradient is not wanted
    assert slice_groups([low.expand(2, 3, 8)], [True], [[0]])  # a slice alone
    assert not slice_groups([torch.randn(2, 3, 80)[..., :8]], [True], [[0]])  # ten times as much memory


def test_packed_gradients_pass_through_custom_ops_and_autograd() -> None:
    """As the scan hands them to the products before it: an op's result, cut into views, found again by another node."""
    taken: list[Tensor | None] = []

    @torch.library.custom_op("ssm_tune_test::packed", mutates_args=())
    def allocated(like: Tensor) -> Tensor:
        return torch.ones(2, 3, 8, dtype=like.dtype)

    class Joins(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            return x[..., :4], x[..., 4:]

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            taken.append(packed_base(gradients, (0, 4), 8))
            return torch.cat(gradients, dim=-1)

    class Makes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
            ctx.layout = slice_layout(left, right)
            return left + right

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
            return tuple(slice_views(allocated(gradients[0]), ctx.layout))

    x = draw(2, 3, 8).requires_grad_()
    Makes.apply(*Joins.apply(x)).sum().backward()
    assert taken[0] is not None
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))
