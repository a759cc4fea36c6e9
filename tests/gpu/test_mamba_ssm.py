"""The kernels and backend=mamba_ssm against each other, where the package is installed."""

from __future__ import annotations

import pytest
import torch
from helpers.scan_cases import CASE, error, inputs, run

from ssm_tune.ops import backend, mamba_ssm_backend
from ssm_tune.ops.causal_conv1d import causal_conv1d

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*deterministic.*")]


@pytest.fixture(autouse=True)
def installed() -> None:
    if (reason := mamba_ssm_backend.missing()) is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("z", [False, True])
def test_both_scans_are_as_near_to_float64(dtype: torch.dtype, offsets: bool, z: bool) -> None:
    """Ours within twice mamba-ssm's error, or its own rounding: the package rounds dy silu(z) and C h' once more."""
    given = inputs(CASE | {"dtype": dtype, "offsets": offsets, "z": z, "start": None, "length": 333})
    dy = torch.randn_like(given["u"])  # type: ignore[arg-type]
    own = {name: x for name, x in given.items() if x is not None}
    wanted = set(own)

    def results(how: str, wide: torch.dtype | None) -> dict[str, torch.Tensor]:
        backend.use(how)
        if how == "mamba_ssm":
            from ssm_tune.ops.selective_scan import selective_scan

            leaves = {name: x.detach().requires_grad_() for name, x in own.items()}
            y = selective_scan(**leaves, dt_softplus=True)
            grads = torch.autograd.grad(y, list(leaves.values()), dy)
            return {"y": y.detach()} | {f"d{name}": g for name, g in zip(leaves, grads, strict=True)}
        dlast = torch.zeros(CASE["batch"], CASE["channels"], CASE["states"], device="cuda")
        return run(given, wanted, dy, dlast, how, wide)

    exact, ours, theirs = results("reference", torch.float64), results("cuda", None), results("mamba_ssm", None)
    for name in theirs:
        rounding = torch.finfo(dtype).eps
        assert error(theirs[name], exact[name]) <= 4 * rounding + 1e-5, name
        assert error(ours[name], exact[name]) <= max(2 * error(theirs[name], exact[name]), rounding), name


@pytest.mark.parametrize("start", [False, True])
def test_both_convolutions_agree(start: bool) -> None:
    given = {"x": torch.randn(2, 65, 64, device="cuda"), "weight": torch.randn(64, 4, device="cuda")}
    given["bias"] = torch.randn(64, device="cuda")
    if start:
        given["initial_state"] = torch.randn(2, 3, 64, device="cuda")
    results = []
    for how in ("mamba_ssm", "cuda"):
        backend.use(how)
        leaves = {name: x.detach().requires_grad_() for name, x in given.items()}
        y = causal_conv1d(**leaves)
        results.append([y, *torch.autograd.grad(y.sin().sum(), list(leaves.values()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
