"""The gated norm's Triton kernels: output and gradients beside those of the equation in float64, and graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssm_tune.ops import backend
from ssm_tune.ops.gated_rms_norm import gated_rms_norm
from ssm_tune.ops.gated_rms_norm.naive import naive_gated_rms_norm

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*deterministic.*")]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda")


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("channels", "groups"), [(1536, 1), (4096, 8), (72, 1), (24, 2), (16384, 1)])
@pytest.mark.parametrize("shape", [(1,), (2, 3), (4, 1024)], ids=str)
def test_output_and_gradients_are_those_of_the_equation(
    shape: tuple[int, ...], channels: int, groups: int, dtype: torch.dtype
) -> None:
    backend.use("cuda")
    given = draw(*shape, channels).to(dtype), draw(*shape, 2 * channels + 8).to(dtype)[..., :channels], draw(channels)
    own, exact = ([x.detach().to(to).requires_grad_() for x in given] for to in (None, torch.float64))
    out, right = gated_rms_norm(*own, 1e-5, groups), naive_gated_rms_norm(*exact, 1e-5, groups)
    d_out = draw(*shape, channels).to(dtype)
    found, expected = torch.autograd.grad(out, own, d_out), torch.autograd.grad(right, exact, d_out.double())
    for mine, theirs in zip((out, *found), (right, *expected), strict=True):
        assert (mine.double() - theirs).norm() <= TOLERANCE[dtype] * theirs.norm()
    again = torch.autograd.grad(gated_rms_norm(*own, 1e-5, groups), own, d_out)
    assert all(torch.equal(mine, other) for mine, other in zip(found, again, strict=True))


def test_a_graph_replays_forward_and_backward() -> None:
    backend.use("cuda")
    own = [draw(3, 5, 72).requires_grad_(), draw(3, 5, 72).requires_grad_(), draw(72).requires_grad_()]

    def work() -> tuple[Tensor, ...]:
        return torch.autograd.grad(gated_rms_norm(*own, 1e-5).sum(), own)

    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    with torch.no_grad():
        for value in own:
            value.normal_()
    graph.replay()
    torch.cuda.synchronize()
    for mine, direct in zip(captured, work(), strict=True):
        assert torch.equal(mine, direct)
