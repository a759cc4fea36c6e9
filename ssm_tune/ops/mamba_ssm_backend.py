"""backend=mamba_ssm: whether the packages mamba-ssm and causal-conv1d are there, and what the two operations share.

The operations lie in selective_scan/mamba_ssm.py and causal_conv1d/mamba_ssm.py.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative

OTHERS_HAVE_IT = "backend=cuda and backend=reference have it"


@cache
def missing() -> str | None:
    """Why the packages cannot be used, or None."""
    for module, package in (
        ("mamba_ssm.ops.selective_scan_interface", "mamba-ssm"),
        ("causal_conv1d", "causal-conv1d"),
    ):
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"{package} cannot be imported ({error}); pip install 'ssm-tune[mamba]' builds it with nvcc"
    return None


class OnceDifferentiable(torch.autograd.Function):
    """The identity, whose gradient has none: the packages would leave second derivatives out without a word."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        refuse_a_second_derivative("backend=mamba_ssm")
        return grads[0]
