"""Custom ops under opcheck with various arguments, and arguments that do not belong together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.scan_cases import CASE, inputs

from ssm_tune.ops import backend
from ssm_tune.ops.cuda.compiler import KernelError
from ssm_tune.ops.rms_norm import cuda as norm_kernels
from ssm_tune.ops.selective_scan import cuda as kernels
from ssm_tune.ops.selective_scan import selective_scan, selective_state_update

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*deterministic.*")]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dtype": torch.float32},
        {"z": False},
        {"offsets": False, "start": None},
        {"D": False, "start": "rows"},
        {"states": 24, "views": False},
    ],
    ids=str,
)
def test_scan(change: dict[str, Any]) -> None:
    given = inputs(CASE | {"length": 9} | change)
    for wanted in (set(given), {"u", "state_offset"}):
        values = [None if x is None else x.detach().requires_grad_(name in wanted) for name, x in given.items()]
        torch.library.opcheck(kernels._forward, (*values, True, False, True))
    # without softplus the steps must be positive, or states grow past float32
    given |= {name: x.abs() for name in ("dt", "dt_bias") if (x := given[name]) is not None}
    plain = [None if x is None else x.detach() for x in given.values()]
    torch.library.opcheck(kernels._forward, (*plain, False, False, False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm(dtype: torch.dtype) -> None:
    stream = torch.randn(5, 64, device="cuda").requires_grad_()
    for added in (None, torch.randn(5, 64, device="cuda").to(dtype).requires_grad_()):
        scale = torch.randn(64, device="cuda").requires_grad_()
        torch.library.opcheck(norm_kernels._forward, (stream, added, scale, 1e-5, dtype))


@pytest.mark.parametrize("name", ["dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state", "state_offset"])
def test_another_device_or_shape_is_named(name: str) -> None:
    given = {key: x for key, x in inputs(CASE).items() if x is not None}
    with pytest.raises(ValueError, match=f"{name} is on cpu, u on cuda"):
        selective_scan(**(given | {name: given[name].cpu()}))
    with pytest.raises(ValueError, match=f"{'A' if name == 'A' else name} must be"):
        selective_scan(**(given | {name: given[name][..., :-1] if name != "A" else given[name][:-1]}))


def test_sizes_out_of_range_are_refused_where_the_kernels_are_forced() -> None:
    backend.use("cuda")
    for change, said in (({"channels": 12}, "multiple of 8"), ({"states": 65}, "at most 64 states")):
        given = {key: x for key, x in inputs(CASE | change).items() if x is not None}
        with pytest.raises(KernelError, match=said):
            selective_scan(**given)
    given = {key: x for key, x in inputs(CASE).items() if x is not None}
    with pytest.raises(ValueError, match="no dimension may be empty"):
        selective_scan(**{key: x[:0] if x.dim() == 3 else x for key, x in given.items()})


def test_steps_of_views_equal_steps_of_copies() -> None:
    wide = torch.randn(9, 3 * 72 + 3, device="cuda").bfloat16()[:, 3:]
    u, dt, z = wide.chunk(3, dim=1)
    B, C = torch.randn(9, 33, device="cuda").bfloat16()[:, 1:].chunk(2, dim=1)
    fixed = -torch.rand(72, 16, device="cuda"), torch.randn(72, device="cuda")
    results = []
    for copied in (False, True):
        own = [x.contiguous().clone() if copied else x for x in (u, dt, B, C, z)]
        state = torch.ones(9, 72, 16, device="cuda")
        y, after = selective_state_update(
            state, own[0], own[1], fixed[0], own[2], own[3], fixed[1], own[4], dt_bias=fixed[1]
        )
        results.append((y, after))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
