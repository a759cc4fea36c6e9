"""The gated norm's Triton kernels in Triton's interpreter; ``test_triton_kernels.py`` runs this file."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.triton_interpreter import poisoned, sum_partials  # noqa: F401  before Triton
from torch import Tensor

from ssm_tune.ops import gated_rms_norm
from ssm_tune.ops.gated_rms_norm import gpu
from ssm_tune.ops.gated_rms_norm.naive import naive_gated_rms_norm
from ssm_tune.ops.packed_gradients import packed_base

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "sum_partials", sum_partials)
    monkeypatch.setattr(gpu, "_PROGRAMS", 2)  # so that each has several rows


def draw(*shape: int) -> Tensor:
    return torch.randn(shape)


def compare(y: Tensor, z: Tensor, weight: Tensor, groups: int, wanted: tuple[bool, ...] = (True, True, True)) -> None:
    """Output and wanted gradients beside those of the equation in float64."""
    own = [x.detach().requires_grad_(want) for x, want in zip((y, z, weight), wanted, strict=True)]
    exact = [x.detach().double().requires_grad_(want) for x, want in zip((y, z, weight), wanted, strict=True)]
    out, right = gpu.GatedNorm.apply(*own, 1e-5, groups), naive_gated_rms_norm(*exact, 1e-5, groups)
    d_out = draw(*y.shape).to(y.dtype)
    found = torch.autograd.grad(out, [x for x in own if x.requires_grad], d_out)
    expected = torch.autograd.grad(right, [x for x in exact if x.requires_grad], d_out.double())
    for mine, theirs in zip((out, *found), (right, *expected), strict=True):
        assert (mine.double() - theirs).norm() <= TOLERANCE[y.dtype] * theirs.norm()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_output_and_gradients_are_those_of_the_equation(groups: int, dtype: torch.dtype) -> None:
    joined = 3 * draw(2, 3, 2 * 120 + 8).to(dtype)
    compare(draw(2, 3, 120).to(dtype), joined[..., :120], draw(120), groups)
    compare(draw(2, 3, 120).to(dtype), joined[..., 128:], draw(120).to(dtype), groups)


def test_gates_far_from_zero_and_rows_of_zeros() -> None:
    y, z = draw(4, 40), torch.tensor([-100.0, -20.0, 20.0, 100.0]).unsqueeze(1).expand(4, 40).contiguous()
    y[2] = 0
    compare(y, z, draw(40), 1)


@pytest.mark.parametrize("wanted", [x for x in itertools.product((True, False), repeat=3) if any(x)], ids=str)
def test_only_wanted_gradients_are_made(wanted: tuple[bool, ...]) -> None:
    compare(draw(3, 24), draw(3, 24), draw(24), 2, wanted)


def test_the_gates_gradient_lies_where_the_gate_does() -> None:
    joined = draw(2, 3, 40)
    z = joined[..., :24].requires_grad_()
    (dz,) = torch.autograd.grad(gpu.GatedNorm.apply(draw(2, 3, 24), z, draw(24), 1e-5, 1), z, draw(2, 3, 24))
    base = packed_base([dz], [0], 40)
    assert base is not None
    assert torch.equal(base[..., :24], dz)


def test_members_have_weights_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_rms_norm, "kernels_run", lambda *given, **named: True)
    y, z, weight = draw(4, 3, 24), draw(4, 3, 24), draw(2, 24)
    out = gated_rms_norm.gated_rms_norm(y, z, weight, 1e-5, 2)
    for member in (0, 1):
        rows = slice(2 * member, 2 * member + 2)
        torch.testing.assert_close(out[rows], naive_gated_rms_norm(y[rows], z[rows], weight[member], 1e-5, 2))


def test_a_second_derivative_is_refused() -> None:
    y = draw(3, 24).requires_grad_()
    with pytest.raises(NotImplementedError, match="gated_rms_norm has no second derivative"):
        torch.autograd.grad(gpu.GatedNorm.apply(y, draw(3, 24), draw(24), 1e-5, 1).sum(), y, create_graph=True)
