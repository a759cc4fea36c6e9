"""What the tests of ``state_space_dual`` on CPU and GPU share: settings, inputs, runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.state_space_dual import state_space_dual
from ssm_tune.ops.state_space_dual.naive import naive_state_space_dual

CASE: dict[str, Any] = {
    "length": 70, "states": 16, "batch": 2, "heads": 4, "width": 32, "groups": 1, "dtype": torch.float32,
    "step": "usual", "limit": (0.0, float("inf")), "offsets": True, "start": "shared", "lengths": False, "views": True,
}  # fmt: skip

EVERY = {"x", "dt", "A_log", "B", "C", "D", "dt_bias", "initial_state", "state_offset", "output_offset"}
"""The arguments that may require gradients."""


def inputs(case: dict[str, Any], device: str, seed: int = 0) -> dict[str, Any]:
    """The arguments of ``state_space_dual``, drawn in float64 and rounded to the case's dtype (weights: to float32)."""
    rows, length, heads, width, states, groups = (
        case[name] for name in ("batch", "length", "heads", "width", "states", "groups")
    )
    generator = torch.Generator(device).manual_seed(seed)
    dtype = case["dtype"]
    weights = torch.float64 if dtype == torch.float64 else torch.float32

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float64)

    sizes = [heads * width, groups * states, groups * states]
    x, B, C = draw(rows, length, sum(sizes)).to(dtype).split(sizes, dim=-1)  # as a block's convolution gives them
    x = x.unflatten(2, (heads, width))
    B, C = (tensor.unflatten(2, (groups, states)) for tensor in (B, C))
    if not case["views"]:
        x, B, C = (tensor.contiguous() for tensor in (x, B, C))
    middle = {"usual": -2.0, "tail": -12.0, "large": 4.0, "mixed": 0.0}[case["step"]]
    spread = 8.0 if case["step"] == "mixed" else 1.0
    start = {None: None, "shared": (heads, width, states), "rows": (rows, heads, width, states)}[case["start"]]
    lengths = torch.randint(1, length + 1, (rows,), generator=generator, device=device) if case["lengths"] else None
    return {
        "x": x,
        "dt": (draw(rows, length, heads) * spread + middle).to(dtype),
        "A_log": torch.rand(heads, generator=generator, device=device, dtype=weights).mul(15).add(1).log(),
        "B": B,
        "C": C,
        "D": draw(heads).to(weights),
        "dt_bias": draw(heads).to(weights),
        "dt_limit": case["limit"],
        "initial_state": None if start is None else draw(*start).to(weights),
        "state_offset": draw(heads, width, states).to(weights) if case["offsets"] else None,
        "output_offset": draw(heads, width).to(weights) if case["offsets"] else None,
        "lengths": lengths,
    }


def naive(**given: Any) -> tuple[Tensor, Tensor]:
    return naive_state_space_dual(**given)


def chunked(**given: Any) -> Any:
    return state_space_dual(**given, output_final_state=True)


def run(
    function: Callable[..., Any],
    given: dict[str, Any],
    wanted: set[str],
    dy: Tensor,
    d_final: Tensor,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Outputs and the wanted gradients by name, from inputs in ``dtype`` (None: as they are)."""
    own = dict(given)
    for name, value in given.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            own[name] = value.to(value.dtype if dtype is None else dtype).detach().requires_grad_(name in wanted)
    names = [name for name in own if name in wanted and own[name] is not None]
    y, final = function(**own)
    outputs = [(y, dy.to(y.dtype)), (final, d_final.to(final.dtype))]
    outputs = [(out, grad) for out, grad in outputs if out.requires_grad]
    leaves = [own[name] for name in names]
    grads = torch.autograd.grad([out for out, _ in outputs], leaves, [grad for _, grad in outputs])
    found = {"y": y.detach(), "final": final.detach()}
    return found | {f"d{name}": grad for name, grad in zip(names, grads, strict=True)}


def error(value: Tensor, exact: Tensor) -> float:
    """Of the whole tensor, relative to its norm."""
    assert torch.isfinite(value).all()
    return float((value.double() - exact).norm() / exact.norm().clamp_min(1e-300))


def worst_ratio(
    ours: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor], dtype: torch.dtype
) -> tuple[Any, ...]:
    """The largest error over that of the float32 recurrence rounded to ``dtype``, and whose it is.

    A float32 result can be exact to the last bit in the baseline by luck: 5e-7 of the norm counts as its least error,
    and of a narrower dtype what one rounding may be, eps / 2.
    """
    worst: tuple[Any, ...] = (0.0,)
    least = 5e-7 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    for name, value in exact.items():
        mine, baseline = error(ours[name], value), max(error(plain[name].to(dtype), value), least)
        worst = max(worst, (mine / baseline, name, mine, baseline))
    return worst
