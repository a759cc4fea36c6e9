"""What the scan's GPU tests share: settings in pairs, inputs, runs on a backend."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops import backend
from ssm_tune.ops.selective_scan import selective_scan

SETTINGS: dict[str, tuple[Any, ...]] = {
    "length": (1, 2, 7, 63, 64, 65, 500, 1024, 2048, 8192),
    "states": (4, 8, 16, 24, 64),
    "batch": (1, 2, 5, 32),
    "channels": (64, 72, 1536, 5120),
    "dtype": (torch.float32, torch.bfloat16, torch.float16),
    "step": ("usual", "tail", "large"),
    "decay": ("usual", "none", "strong"),
    "z": (True, False),
    "D": (True, False),
    "offsets": (True, False),
    "start": (None, "shared", "rows"),
    "views": (True, False),
    "gradients": ("frozen", "all"),
}
LARGEST = 2**31
"""Of batch x length x channels x states."""
WIDEST = 2**27
"""Of batch x length x channels: 1 GiB a tensor in float64, of which the plain scan holds about twenty."""


def pairwise() -> list[dict[str, Any]]:
    """Cases of the selective scan that hold every pair of settings, but for pairs that no allowed size has."""
    return pairs_of(SETTINGS, _allowed)


def pairs_of(settings: dict[str, tuple[Any, ...]], allowed: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Allowed cases that hold every pair of ``settings``, but for pairs that none has; greedy, from a fixed seed."""
    draw = random.Random(0)
    names = list(settings)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(settings[a]))
        for j in range(len(settings[b]))
    }
    cases = []
    while missing:
        pair = min(missing)  # with the rest drawn, of which the draw with the most new pairs is kept
        found: list[tuple[int, dict[str, int]]] = []
        for _ in range(40):
            case = {name: draw.randrange(len(settings[name])) for name in names} | dict(pair)
            if allowed({name: settings[name][index] for name, index in case.items()}):
                found.append((sum(two in missing for two in itertools.combinations(case.items(), 2)), case))
        missing.discard(pair)
        if found:
            case = max(found, key=lambda entry: entry[0])[1]
            missing.difference_update(itertools.combinations(case.items(), 2))
            cases.append({name: settings[name][index] for name, index in case.items()})
    return cases


def _allowed(case: dict[str, Any]) -> bool:
    wide = math.prod(case[name] for name in ("batch", "length", "channels"))
    return wide <= WIDEST and wide * case["states"] <= LARGEST


def inputs(case: dict[str, Any], seed: int = 0) -> dict[str, Tensor | None]:
    rows, length, channels, states = (case[name] for name in ("batch", "length", "channels", "states"))
    generator = torch.Generator("cuda").manual_seed(seed)
    dtype = case["dtype"]

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    x, z = draw(rows, length, 2 * channels).to(dtype).chunk(2, dim=-1)
    _, B, C = draw(rows, length, 3 + 2 * states).to(dtype).split([3, states, states], dim=-1)
    if not case["views"]:
        x, z, B, C = (tensor.contiguous() for tensor in (x, z, B, C))
    middle = {"usual": -2.0, "tail": -12.0, "large": 4.0}[case["step"]]
    scale = {"usual": 1.0, "none": 1e-5, "strong": 1e3}[case["decay"]]
    start = {None: None, "shared": (channels, states), "rows": (rows, channels, states)}[case["start"]]
    return {
        "u": x,
        "dt": (draw(rows, length, channels) + middle).to(dtype),
        "A": -scale * (draw(channels, states).abs() + 0.01),
        "B": B,
        "C": C,
        "D": draw(channels) if case["D"] else None,
        "z": z if case["z"] else None,
        "dt_bias": draw(channels),
        "initial_state": None if start is None else draw(*start),
        "state_offset": draw(channels, states) if case["offsets"] else None,
        "output_offset": draw(channels) if case["offsets"] else None,
    }


def run(
    given: dict[str, Tensor | None], wanted: set[str], dy: Tensor, dlast: Tensor, how: str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Outputs and gradients by name, from inputs in ``dtype`` (None: as they are), on backend ``how``."""
    own: dict[str, Any] = {}
    for name, tensor in given.items():
        if tensor is not None:
            tensor = (tensor if dtype is None else tensor.to(dtype)).detach()
            own[name] = tensor.requires_grad_(name in wanted)
    backend.use(how)
    y, last = selective_scan(**own, dt_softplus=True, output_final_state=True)
    names = [name for name in own if name in wanted]
    outputs = [(y, dy.to(y.dtype)), (last, dlast.to(last.dtype))]
    outputs = [(out, grad) for out, grad in outputs if out.requires_grad]
    grads = torch.autograd.grad([out for out, _ in outputs], [own[name] for name in names], [g for _, g in outputs])
    return {"y": y.detach(), "last": last.detach()} | {f"d{n}": g for n, g in zip(names, grads, strict=True)}


def error(value: Tensor, exact: Tensor) -> float:
    """Relative to the whole tensor; what overflows the dtype counts in neither norm."""
    fits = exact.abs() <= torch.finfo(value.dtype).max / 2
    assert torch.isfinite(value[fits]).all()
    return float((value.double() - exact)[fits].norm() / exact[fits].norm().clamp_min(1e-300))


CASE: dict[str, Any] = {
    "batch": 2, "length": 70, "channels": 64, "states": 16, "dtype": torch.bfloat16, "step": "usual", "decay": "usual",
    "z": True, "D": True, "offsets": True, "start": "shared", "views": True,
}  # fmt: skip
