"""The state space dual scan's Triton kernels in Triton's interpreter; ``test_triton_kernels.py`` runs this file.

Inputs, outputs and gradients as in the tests on CPU and GPU; beside the numbers every access is checked
(``helpers/triton_interpreter.py``), and uninitialised memory holds NaN.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.scan_cases import pairs_of
from helpers.ssd_cases import CASE, EVERY, inputs, naive, run, worst_ratio
from helpers.triton_interpreter import poisoned, sum_partials  # noqa: F401  before Triton
from torch import Tensor

from ssm_tune.ops.state_space_dual.gpu import backward, layout
from ssm_tune.ops.state_space_dual.gpu.backward import NAMES
from ssm_tune.ops.state_space_dual.gpu.forward import scan
from ssm_tune.ops.state_space_dual.gpu.update import run_update

SETTINGS: dict[str, tuple[Any, ...]] = {
    "length": (1, 15, 16, 17, 33, 63, 64, 65, 130),
    "dtype": (torch.bfloat16, torch.float32, torch.float16),
    "states": (16, 20, 64, 128, 256),
    "width": (24, 32, 64, 128),
    "groups": (1, 2, 8),
    "heads": (8,),
    "batch": (1, 3),
    "step": ("usual", "tail", "large", "mixed"),
    "limit": ((0.0, float("inf")), (0.05, 0.4)),
    "offsets": (True, False),
    "start": (None, "shared", "rows"),
    "lengths": (True, False),
    "views": (True, False),
    "gradients": ("frozen", "all"),
    "processors": (2, 132),
}
"""processors: of the GPU; how many programs share a group's heads depends on them."""
SMALL = CASE | {"batch": 1, "heads": 2, "gradients": "all", "processors": 2, "lengths": True}
EVERYDAY = [
    SMALL | {"dtype": torch.bfloat16, "processors": 132},
    SMALL | {"length": 9, "states": 20, "width": 24, "start": "rows", "step": "mixed"},
]

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backward, "sum_partials", sum_partials)


def kernels(**given: Any) -> Any:
    return scan(*(given[name] for name in NAMES), given["lengths"], given["dt_limit"], True)


def small_enough(case: dict[str, Any]) -> bool:
    return math.prod(case[name] for name in ("length", "states", "width", "batch")) <= 2**18


def name_of(case: dict[str, Any]) -> str:
    return "-".join(map(str, case.values()))


def check(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, wanted: set[str]) -> None:
    monkeypatch.setattr(layout, "_processors", lambda device: case["processors"])
    given = inputs(case, "cpu")
    torch.manual_seed(0)
    dy = torch.randn(given["x"].shape).to(case["dtype"])
    d_final = torch.randn(case["batch"], case["heads"], case["width"], case["states"])
    ours = run(kernels, given, wanted, dy, d_final)
    plain, exact = (run(naive, given, wanted, dy, d_final, dtype) for dtype in (torch.float32, torch.float64))
    worst = worst_ratio(ours, plain, exact, case["dtype"])
    assert worst[0] <= 2, worst


@pytest.mark.parametrize("case", EVERYDAY, ids=name_of)
def test_outputs_and_gradients_are_those_of_the_recurrence(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(case, monkeypatch, EVERY)


@pytest.mark.slow
@pytest.mark.parametrize("case", pairs_of(SETTINGS, small_enough), ids=name_of)
def test_every_pair_of_settings(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = case["gradients"] == "frozen"
    check(case, monkeypatch, EVERY - {"A_log", "D", "dt_bias"} if frozen else EVERY)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [*({name} for name in NAMES), {"D", "dt_bias"}], ids="-".join)
@pytest.mark.parametrize("length", [9, 70])
def test_each_gradient_alone(length: int, wanted: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check(SMALL | {"length": length}, monkeypatch, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_is_one_position_of_the_scan(dtype: torch.dtype) -> None:
    case = CASE | {"length": 1, "groups": 2, "states": 20, "width": 24, "dtype": dtype, "start": "rows"}
    given = inputs(case, "cpu")
    y, final = naive(**{n: x.double() if isinstance(x, Tensor) else x for n, x in given.items()})
    here = [given[name][:, 0] if name in ("x", "dt", "B", "C") else given[name] for name in NAMES]
    state, order = here.pop(NAMES.index("initial_state")), torch.tensor([1, 0])
    into = torch.full(final.shape, torch.nan)
    for before, after, source in ((state[order], into, order), (state, state, None)):
        out = run_update(before.contiguous(), after, source, *here, given["dt_limit"])
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(out.double(), y[:, 0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(after.double(), final, rtol=1e-5, atol=1e-5)
