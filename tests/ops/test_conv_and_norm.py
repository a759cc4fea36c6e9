"""The convolution and the norm against PyTorch's own and against the naive ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.causal_conv1d import causal_conv1d, causal_conv1d_update, split_conv1d
from ssm_tune.ops.causal_conv1d import cuda as kernels
from ssm_tune.ops.causal_conv1d.naive import naive_causal_conv1d
from ssm_tune.ops.packed_gradients import slice_layout, slice_views
from ssm_tune.ops.rms_norm import add_rms_norm, rms_norm
from ssm_tune.ops.rms_norm.naive import naive_add_rms_norm


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_convolution_equals_a_grouped_conv1d(length: int) -> None:
    x, weight, bias = torch.randn(2, length, 6).double(), torch.randn(6, 4).double(), torch.randn(6).double()
    x, weight, bias = x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    ours = causal_conv1d(x, weight, bias)
    padded = F.pad(x.transpose(1, 2), (3, 0))
    theirs = F.silu(F.conv1d(padded, weight.unsqueeze(1), bias, groups=6)).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-12)
    out = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (x, weight, bias), out),
        torch.autograd.grad(theirs, (x, weight, bias), out),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-12)


def test_convolution_continues_from_its_state() -> None:
    x, weight, bias = torch.randn(2, 9, 6), torch.randn(6, 4), torch.randn(6)
    whole = causal_conv1d(x, weight, bias)
    tail = causal_conv1d(x[:, 5:], weight, bias, initial_state=x[:, 2:5])
    assert torch.allclose(whole[:, 5:], tail, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_equals_pytorchs(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 5, 16), torch.rand(16)
    theirs = F.rms_norm(x, (16,), weight, 1e-5).to(dtype)
    assert torch.allclose(rms_norm(x, weight, 1e-5, dtype), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("first", [0, 2, 6])
def test_some_channels_of_a_tensor_are_convolved(first: int) -> None:
    joined, weight, bias, start = (torch.randn(shape) for shape in ((2, 9, 12), (6, 4), (6,), (2, 3, 6)))
    before, x, behind = split_conv1d(joined, first, weight, bias, start)
    assert torch.equal(x, causal_conv1d(joined[..., first : first + 6], weight, bias, start))
    assert torch.equal(before, joined[..., :first])
    assert torch.equal(behind, joined[..., first + 6 :])


def plain_backward(
    dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor, start: Tensor, dx: Tensor | None, wanted: list[bool]
) -> tuple[Tensor, ...]:
    """In place of the kernel: the gradient of x is written to ``dx``."""
    own = [value.detach().requires_grad_() for value in (x, weight, bias, start)]
    with torch.enable_grad():
        grads = torch.autograd.grad(naive_causal_conv1d(*own), own, dout)
    if dx is not None:
        dx.copy_(grads[0])
    return tuple(grads[1:])


class Gates(torch.autograd.Function):
    """A reader of a slice whose gradient lies in memory as wide as the whole."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.layout = slice_layout(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        base = torch.full(ctx.layout.shape, torch.nan, dtype=torch.float64)
        (own,) = slice_views(base, ctx.layout)
        return own.copy_(grads[0] * 2)


@pytest.mark.parametrize(
    "used", [(True, True, True), (True, True, False), (False, True, True), (True, False, False)], ids=str
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("first", [0, 4])
def test_gradients_are_put_beside_the_convolutions(
    first: int, packed: bool, used: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "run_forward", naive_causal_conv1d)
    monkeypatch.setattr(kernels, "run_backward", plain_backward)
    given = [torch.randn(shape).double() for shape in ((2, 9, 12), (4, 4), (4,), (2, 3, 4))]
    found = []
    for ours in (True, False):
        joined, weight, bias, start = (value.clone().requires_grad_() for value in given)
        if ours:
            parts = kernels.CausalConv.apply(joined, weight, bias, start, first)
        else:
            before, x, behind = joined.split([first, 4, 8 - first], dim=-1)
            parts = before, naive_causal_conv1d(x, weight, bias, start), behind
        readers = [
            Gates.apply if ours and packed and i != 1 and part.numel() else lambda x: x * 2
            for i, part in enumerate(parts)
        ]
        torch.manual_seed(0)
        terms = [
            (reader(part) * torch.randn_like(part)).sum()
            for reader, part, use in zip(readers, parts, used, strict=True)
            if use
        ]
        found.append(torch.autograd.grad(sum(terms), joined)[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("width", [1, 2, 4, 5])
@pytest.mark.parametrize("start", [False, True])
def test_convolution_equals_the_naive_one(width: int, start: bool) -> None:
    x, weight, bias = torch.randn(2, 7, 6).double(), torch.randn(6, width).double(), torch.randn(6).double()
    state = torch.randn(2, width - 1, 6).double() if start else None
    expected = naive_causal_conv1d(x, weight, bias, state)
    torch.testing.assert_close(causal_conv1d(x, weight, bias, state), expected)
    if state is not None:  # one position at a time
        for t in range(x.shape[1]):
            y, state = causal_conv1d_update(x[:, t], state, weight, bias)
            torch.testing.assert_close(y, expected[:, t])


@pytest.mark.parametrize("added", [False, True])
def test_norm_equals_the_naive_one(added: bool) -> None:
    x, weight = torch.randn(3, 5, 16).double(), torch.rand(16).double()
    more = torch.randn_like(x) if added else None
    ours, theirs = add_rms_norm(x, more, weight, 1e-5, torch.float64), naive_add_rms_norm(x, more, weight, 1e-5)
    torch.testing.assert_close(ours, theirs)
