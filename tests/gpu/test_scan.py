"""The scan's kernels against float64, over a grid in which every pair of settings occurs."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from ssm_tune.ops import backend
from ssm_tune.ops.compiler import KernelError
from ssm_tune.ops.selective_scan import kernels, selective_scan

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:.*deterministic.*")]

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
LARGEST = 2**28
"""Of batch x length x channels x states: what float64 does in about a second."""


def pairwise() -> list[dict[str, Any]]:
    """Cases that hold every pair of settings, but for those too large; greedy, from a fixed seed."""
    draw = random.Random(0)
    names = list(SETTINGS)
    missing = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(SETTINGS[a]))
        for j in range(len(SETTINGS[b]))
    }
    cases = []
    for _ in range(400):
        best: tuple[int, dict[str, int]] = (0, {})
        for _ in range(60):
            case = {name: draw.randrange(len(SETTINGS[name])) for name in names}
            size = 1
            for name in ("batch", "length", "channels", "states"):
                size *= SETTINGS[name][case[name]]
            if size <= LARGEST:
                found = sum((a, case[a], b, case[b]) in missing for a, b in itertools.combinations(names, 2))
                best = max(best, (found, case), key=lambda pair: pair[0])
        if best[0] == 0:
            break
        case = best[1]
        missing -= {(a, case[a], b, case[b]) for a, b in itertools.combinations(names, 2)}
        cases.append({name: SETTINGS[name][index] for name, index in case.items()})
    return cases


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
    y, last = selective_scan(**own, dt_softplus=True, return_last_state=True)
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


@pytest.mark.parametrize("case", pairwise(), ids=lambda case: "-".join(str(value) for value in case.values()))
def test_errors_are_at_most_twice_those_of_rounding(case: dict[str, Any], record_property: Any) -> None:
    """The baseline: everything in float32, inputs and all results rounded to the input's dtype.

    A float32 result that hangs on one exponential of a large argument can be exact to the last bit in the baseline by
    luck: there, 1e-6 is allowed.
    """
    given, dtype = inputs(case), case["dtype"]
    frozen = {"u", "dt", "B", "C", "z", "initial_state", "state_offset", "output_offset"}
    wanted = frozen if case["gradients"] == "frozen" else set(given)
    dy = torch.randn_like(given["u"], dtype=torch.float32).to(dtype)  # type: ignore[arg-type]
    dlast = torch.randn(case["batch"], case["channels"], case["states"], device="cuda")
    ours = run(given, wanted, dy, dlast, "cuda", None)
    again = run(given, wanted, dy, dlast, "cuda", None)
    plain = run(given, wanted, dy, dlast, "reference", torch.float32)
    exact = run(given, wanted, dy, dlast, "reference", torch.float64)
    worst = (0.0, "", 0.0, 0.0)
    for name, value in exact.items():
        assert torch.equal(ours[name], again[name]), f"{name}: two runs differ"
        assert not torch.isnan(ours[name]).any(), f"{name}: not written, or not a number"
        mine = error(ours[name], value)
        baseline = max(
            error(plain[name].to(dtype), value), 5e-7 if dtype == torch.float32 else torch.finfo(dtype).eps / 4
        )
        worst = max(worst, (mine / baseline, name, mine, baseline))
    record_property("worst", f"{worst[0]:.2f} {worst[1]} {worst[2]:.2e} {worst[3]:.2e}")
    assert worst[0] <= 2, worst


CASE: dict[str, Any] = {
    "batch": 2, "length": 70, "channels": 64, "states": 16, "dtype": torch.bfloat16, "step": "usual", "decay": "usual",
    "z": True, "D": True, "offsets": True, "start": "shared", "views": True,
}  # fmt: skip


def test_the_ops_pass_opcheck() -> None:
    given = inputs(CASE | {"length": 9})
    values = [None if x is None else x.detach().requires_grad_() for x in given.values()]
    torch.library.opcheck(kernels._forward, (*values, True, True))


def test_a_graph_replays_forward_and_backward() -> None:
    given = {name: x.detach().requires_grad_() for name, x in inputs(CASE).items() if x is not None}
    dy = torch.randn_like(given["u"])

    def work() -> tuple[Tensor, ...]:
        return torch.autograd.grad(selective_scan(**given, dt_softplus=True), list(given.values()), dy)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = work()
    torch.cuda.synchronize()
    fresh = inputs(CASE, seed=1)
    with torch.no_grad():
        for name, x in given.items():
            x.copy_(fresh[name])
    graph.replay()
    torch.cuda.synchronize()
    for name, mine, direct in zip(given, captured, work(), strict=True):
        assert torch.equal(mine, direct), name


def test_second_derivatives_are_refused_by_name() -> None:
    given = {name: x.detach().requires_grad_() for name, x in inputs(CASE).items() if x is not None}
    (du,) = torch.autograd.grad(selective_scan(**given, dt_softplus=True).sum(), given["u"], create_graph=True)
    with pytest.raises(NotImplementedError, match="backend=reference"):
        du.sum().backward()


def test_only_wanted_gradients_are_made() -> None:
    given = {name: x for name, x in inputs(CASE).items() if x is not None}
    given["state_offset"] = given["state_offset"].requires_grad_()
    y, last = selective_scan(**given, dt_softplus=True, return_last_state=True)
    (y.float().sum() + last.sum()).backward()
    assert given["state_offset"].grad is not None
    assert all(x.grad is None for name, x in given.items() if name != "state_offset")


def test_unaligned_views_give_the_same_as_copies() -> None:
    given = {name: x for name, x in inputs(CASE).items() if x is not None}
    shifted = torch.zeros(2, 70, 67, device="cuda", dtype=torch.bfloat16)
    shifted[:, :, 3:] = given["u"]
    turned = given["dt"].transpose(1, 2).contiguous().transpose(1, 2)
    direct = selective_scan(**given, dt_softplus=True)
    assert torch.equal(selective_scan(**(given | {"u": shifted[:, :, 3:], "dt": turned}), dt_softplus=True), direct)


def test_more_states_than_the_kernels_take_run_on_the_reference_or_are_refused() -> None:
    given = {name: x for name, x in inputs(CASE | {"states": 65}).items() if x is not None}
    assert torch.isfinite(selective_scan(**given, dt_softplus=True)).all()
    backend.use("cuda")
    with pytest.raises(KernelError, match="at most 64 states"):
        selective_scan(**given, dt_softplus=True)
