"""What the tests of the state space dual scan on a GPU and their script share: cases, and the errors of one."""

from __future__ import annotations

import math
from typing import Any

import torch

from helpers.scan_cases import pairs_of
from helpers.ssd_cases import EVERY, chunked, inputs, run, worst_ratio
from ssm_tune.ops import backend

SETTINGS: dict[str, tuple[Any, ...]] = {
    "length": (1, 15, 64, 65, 200, 1024, 8192),
    "dtype": (torch.bfloat16, torch.float32, torch.float16),
    "states": (16, 64, 128, 256),
    "width": (32, 64, 128),
    "groups": (1, 2, 8),
    "heads": (8, 24),
    "batch": (1, 3),
    "step": ("usual", "tail", "large", "mixed"),
    "limit": ((0.0, float("inf")), (0.05, 0.4)),
    "offsets": (True, False),
    "start": (None, "shared", "rows"),
    "lengths": (True, False),
    "views": (True, False),
    "gradients": ("frozen", "all"),
}
BENCHMARKED: dict[str, Any] = {
    "dtype": torch.bfloat16, "states": 128, "width": 64, "groups": 1, "heads": 24, "batch": 4, "step": "usual",
    "limit": (0.0, float("inf")), "offsets": True, "start": "shared", "lengths": False, "views": True,
}  # fmt: skip
"""Of the sizes that ``python -m benchmarks ssd`` times."""


def _allowed(case: dict[str, Any]) -> bool:
    return math.prod(case[name] for name in ("length", "states", "width", "heads", "batch")) <= 2**30


CASES: list[dict[str, Any]] = [
    *pairs_of(SETTINGS, _allowed),
    *(
        BENCHMARKED | {"length": length, "gradients": wanted}
        for length in (64, 256, 1024)
        for wanted in ("frozen", "all")
    ),
    *(
        BENCHMARKED | {"length": 200, "gradients": "all", "width": width, "states": states}
        for width in (*SETTINGS["width"], 48, 80)
        for states in SETTINGS["states"]
    ),
]


def name_of(case: dict[str, Any]) -> str:
    """As a line: L dtype N P G H B and the others."""
    letters = {"states": "N", "width": "P", "groups": "G", "heads": "H", "batch": "B"}
    flags = [name for name in ("offsets", "lengths", "views") if case[name]]
    sizes = [f"{letter}{case[name]}" for name, letter in letters.items()]
    limit = [] if math.isinf(case["limit"][1]) else ["limit"]
    dtype = str(case["dtype"]).removeprefix("torch.")
    return "-".join(
        [f"L{case['length']}", dtype, *sizes, case["step"], str(case["start"]), *flags, *limit, case["gradients"]]
    )


def errors_of(case: dict[str, Any]) -> tuple[Any, ...]:
    """The largest of outputs' and gradients' errors over that of rounding, and whose it is (``worst_ratio``).

    The exact values are those of plain PyTorch in float64, which the CPU's tests hold against the recurrence; the
    baseline is the same in float32 with all results rounded to the inputs' dtype. Raises AssertionError where two runs
    differ.
    """
    given = inputs(case, "cuda")
    wanted = EVERY - {"A_log", "D", "dt_bias"} if case["gradients"] == "frozen" else EVERY
    torch.manual_seed(0)
    dy = torch.randn(given["x"].shape, device="cuda").to(case["dtype"])
    d_final = torch.randn(case["batch"], case["heads"], case["width"], case["states"], device="cuda")
    backend.use("cuda")
    ours, again = (run(chunked, given, wanted, dy, d_final) for _ in range(2))
    for name, value in ours.items():
        assert torch.equal(value, again[name]), f"{name}: two runs differ"
    backend.use("reference")
    plain, exact = (run(chunked, given, wanted, dy, d_final, dtype) for dtype in (torch.float32, torch.float64))
    return worst_ratio(ours, plain, exact, case["dtype"])
