"""The gated norm in plain PyTorch: against its equation, and against transformers'."""

from __future__ import annotations

import pytest
import torch

from ssm_tune.ops.gated_rms_norm import gated_rms_norm
from ssm_tune.ops.gated_rms_norm.naive import naive_gated_rms_norm


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_it_equals_the_naive_one_and_its_gradients_are_right(groups: int) -> None:
    y, z, weight = (torch.randn(shape).double().requires_grad_() for shape in ((2, 3, 16), (2, 3, 16), (16,)))
    torch.testing.assert_close(
        gated_rms_norm(y, z, weight, 1e-5, groups), naive_gated_rms_norm(y, z, weight, 1e-5, groups)
    )
    assert torch.autograd.gradcheck(lambda *own: gated_rms_norm(*own, 1e-5, groups), (y, z, weight))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_transformers_norm(dtype: torch.dtype, groups: int) -> None:
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    theirs = modeling.MambaRMSNormGated(24, group_size=24 // groups, eps=1e-5).to(dtype)
    theirs.weight.data = torch.randn(24).to(dtype)
    y, z = torch.randn(2, 3, 24).to(dtype), torch.randn(2, 3, 24).to(dtype)
    close = {torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(gated_rms_norm(y, z, theirs.weight, 1e-5, groups), theirs(y, z), rtol=close, atol=close)
