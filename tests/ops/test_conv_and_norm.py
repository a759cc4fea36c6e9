"""The convolution and the norm against PyTorch's own and against the naive ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ssm_tune.ops.causal_conv1d import causal_conv1d, causal_conv1d_update, split_conv1d
from ssm_tune.ops.causal_conv1d.naive import naive_causal_conv1d
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


def test_half_of_a_tensor_is_convolved() -> None:
    joined, weight, bias, start = (torch.randn(shape) for shape in ((2, 9, 12), (6, 4), (6,), (2, 3, 6)))
    x, z = split_conv1d(joined, weight, bias, start)
    assert torch.equal(x, causal_conv1d(joined[..., :6], weight, bias, start))
    assert torch.equal(z, joined[..., 6:])


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
