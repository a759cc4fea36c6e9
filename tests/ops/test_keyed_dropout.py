"""Keyed dropout: the share that is asked for, without a pattern; and an element meets the same wherever it is."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.ops.keyed_dropout import column_bits, keyed_dropout, row_bits, row_key
from ssm_tune.ops.keyed_dropout.naive import naive_keyed_dropout

ROWS, LENGTH, WIDTH = 8, 96, 160


def kept(step: int, place: int, share: float = 0.25) -> torch.Tensor:
    """(ROWS, LENGTH, WIDTH), one where an element stays."""
    keys = torch.tensor([row_key(42, step, example) for example in range(ROWS)])
    ones = torch.ones(ROWS, LENGTH, WIDTH)
    return keyed_dropout(ones, row_bits(keys, LENGTH), column_bits(place, WIDTH)[None], share)[0][0]


def far_from(found: torch.Tensor, expected: float, deviation: float) -> float:
    """The largest distance in standard deviations."""
    return float(((found - expected).abs() / deviation).max())


@given(st.floats(0.01, 0.99), st.integers(0, 10**6), st.integers(0, 500))
def test_the_share_is_met(share: float, step: int, place: int) -> None:
    mask = kept(step, place, share)
    deviation = math.sqrt(share * (1 - share) / mask.numel())
    assert abs(float(mask.mean()) - (1 - share)) < 6 * deviation


def test_no_row_position_or_column_is_favoured() -> None:
    mask = kept(3, 7)
    for dims in ((1, 2), (0, 2), (0, 1), (2,), (0,)):
        means = mask.mean(dims)
        count = mask.numel() / means.numel()
        assert far_from(means, 0.75, math.sqrt(0.25 * 0.75 / count)) < 6


def test_elements_are_uncorrelated() -> None:
    """Neighbours in every direction, the four corners of a rectangle, other places, steps and seeds."""
    here = kept(3, 7) - 0.75
    others = [here.roll(1, dim) for dim in range(3)] + [kept(3, 8) - 0.75, kept(4, 7) - 0.75]
    for other in others:
        product = (here * other).mean()
        assert abs(float(product)) < 6 * 0.25 * 0.75 / math.sqrt(here.numel())
    corners = here * here.roll(1, 1) * here.roll(1, 2) * here.roll((1, 1), (1, 2))
    assert abs(float(corners.mean())) < 6 * (0.25 * 0.75) ** 2 / math.sqrt(here.numel())


@given(st.integers(1, 95), st.integers(0, 7), st.integers(1, 8))
def test_an_element_meets_the_same_in_any_company(length: int, start: int, rows: int) -> None:
    keys = torch.tensor([row_key(1, 2, example) for example in range(ROWS)])
    x, columns = torch.randn(ROWS, LENGTH, WIDTH), torch.stack([column_bits(5, WIDTH), column_bits(6, WIDTH)])
    whole, _ = keyed_dropout(x, row_bits(keys, LENGTH), columns, 0.5)
    part, _ = keyed_dropout(
        x[start : start + rows, :length], row_bits(keys[start : start + rows], length), columns, 0.5
    )
    assert torch.equal(part, whole[:, start : start + rows, :length])


def test_the_gradient_passes_where_the_element_stays() -> None:
    x = torch.randn(2, 5, WIDTH, requires_grad=True)
    bits = row_bits(torch.tensor([1, 2]), 5), torch.stack([column_bits(0, WIDTH), column_bits(1, WIDTH)])
    keyed_dropout(x, *bits, 0.5)[0].sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, keyed_dropout(torch.ones_like(x), *bits, 0.5)[0].sum(0))


def test_keys_tell_seed_step_and_example_apart() -> None:
    keys = {row_key(seed, step, example) for seed in (0, 1) for step in range(20) for example in range(20)}
    assert len(keys) == 800
    assert all(0 <= key < 2**31 for key in keys)


@given(st.floats(0, 0.99), st.integers(0, 2**31 - 1), st.integers(0, 500))
def test_it_drops_what_the_naive_one_drops(share: float, key: int, place: int) -> None:
    x, rows, columns = torch.randn(1, 4, 16), row_bits(torch.tensor([key]), 4), column_bits(place, 16)
    expected = naive_keyed_dropout(x[0].tolist(), rows[0].tolist(), columns.tolist(), share)
    assert keyed_dropout(x, rows, columns[None], share)[0][0, 0].tolist() == expected
