"""backend=mamba_ssm equals the fused operations, by stand-ins for the packages with their layouts; refusals by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.small_models import small_model
from torch import Tensor

from ssm_tune.config.compose import compose
from ssm_tune.config.groups import method_section, names
from ssm_tune.experiment.setup import build_experiment
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.ops import backend, mamba_ssm_backend
from ssm_tune.ops.causal_conv1d import causal_conv1d
from ssm_tune.ops.cuda.compiler import KernelError
from ssm_tune.ops.selective_scan import selective_scan
from ssm_tune.ops.selective_scan.cpu import SelectiveScan
from ssm_tune.utils.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def scan_stand_in(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """mamba-ssm's layout, (B, D, L), over our plain scan; no offset and no initial state."""
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    step = delta if delta_bias is None else delta + delta_bias[:, None]
    step = F.softplus(step) if delta_softplus else step
    turned = [x.transpose(1, 2) for x in (u, step, B, C)]
    y, last = SelectiveScan.apply(turned[0], turned[1], A, turned[2], turned[3], A.new_zeros(u.shape[0], *A.shape))
    y = y.transpose(1, 2)
    y = y if D is None else y + u * D[:, None]
    y = y if z is None else y * F.silu(z)
    return (y, last) if return_last_state else y


def conv_stand_in(
    x: Tensor, weight: Tensor, bias: Any = None, initial_states: Any = None, activation: Any = None
) -> Any:
    assert activation == "silu"
    start = x.new_zeros(x.shape[0], x.shape[1], weight.shape[1] - 1) if initial_states is None else initial_states
    return F.silu(F.conv1d(torch.cat([start, x], dim=2), weight.unsqueeze(1), bias, groups=x.shape[1]))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    packages = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface", "causal_conv1d")
    modules = {name: ModuleType(name) for name in packages}
    modules["mamba_ssm.ops.selective_scan_interface"].selective_scan_fn = scan_stand_in  # type: ignore[attr-defined]
    modules["causal_conv1d"].causal_conv1d_fn = conv_stand_in  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(backend, "_mamba_ssm_obstacle", lambda device, dtype: None)
    mamba_ssm_backend.missing.cache_clear()
    yield
    mamba_ssm_backend.missing.cache_clear()
    backend.use("auto")


def scan_inputs(offsets: bool, z: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    given = {"u": draw(2, 7, 8), "dt": draw(2, 7, 8), "A": -draw(8, 3).exp(), "B": draw(2, 7, 3), "C": draw(2, 7, 3)}
    given |= {"D": draw(8), "dt_bias": draw(8)}
    if z:
        given["z"] = draw(2, 7, 8)
    if offsets:
        given |= {"state_offset": draw(8, 3), "output_offset": draw(8)}
    return {name: x.requires_grad_() for name, x in given.items()}


def both(work: Any, given: dict[str, Tensor]) -> list[list[Tensor]]:
    results = []
    for how in ("mamba_ssm", "reference"):
        backend.use(how)
        y = work(**given)
        grads = torch.autograd.grad((y * torch.arange(y.numel()).reshape(y.shape).sin()).sum(), list(given.values()))
        results.append([y, *grads])
    return results


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("z", [False, True])
def test_offsets_outside_equal_offsets_inside(offsets: bool, z: bool) -> None:
    theirs, ours = both(lambda **given: selective_scan(**given, dt_softplus=True), scan_inputs(offsets, z))
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("start", [False, True])
def test_the_convolution_is_the_same(start: bool) -> None:
    given = {"x": torch.randn(2, 9, 8), "weight": torch.randn(8, 4), "bias": torch.randn(8)}
    if start:
        given["initial_state"] = torch.randn(2, 3, 8)
    given = {name: x.double().requires_grad_() for name, x in given.items()}
    for a, b in zip(*both(causal_conv1d, given), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("packages")
def test_what_the_package_lacks_is_refused_by_name() -> None:
    given = scan_inputs(True, True)
    backend.use("mamba_ssm")
    with pytest.raises(KernelError, match="takes no initial state"):
        selective_scan(**given, initial_state=torch.zeros(8, 3).double())
    with pytest.raises(KernelError, match="final state no gradient"):
        selective_scan(**given, output_final_state=True)
    (du,) = torch.autograd.grad(selective_scan(**given).sum(), given["B"])
    assert not du.requires_grad
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(selective_scan(**given).sum(), given["B"], create_graph=True)
    with torch.no_grad():
        wide = given | {"A": -torch.rand(8, 257), "B": torch.rand(2, 7, 257), "C": torch.rand(2, 7, 257)}
        with pytest.raises(KernelError, match="at most 256 states, got 257"):
            selective_scan(**{k: x for k, x in wide.items() if k != "state_offset"})
        assert selective_scan(**given, output_final_state=True)[1].shape == (2, 8, 3)
        with pytest.raises(KernelError, match="widths 2 to 4"):
            causal_conv1d(torch.rand(1, 5, 8), torch.rand(8, 5))
        with pytest.raises(KernelError, match="empty"):
            causal_conv1d(torch.rand(0, 5, 8), torch.rand(8, 4))


def gradients(name: str) -> dict[str, Tensor]:
    """Of a small model's loss by what a method trains, away from its start, on the backend in use."""
    adapter = attach(small_model(torch.float64), load_method(method_section(name)))
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator).double()
    tokens = torch.randint(64, (3, 12), generator=generator)
    adapter.model.train()
    with adapter.model.randomness.of(torch.arange(3)):
        logits = adapter.model(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return {key: value.grad for key, value in adapter.named_parameters() if value.grad is not None}


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("name", names("method"))
def test_training_with_it_gives_the_gradients_of_the_reference(name: str) -> None:
    backend.use("mamba_ssm")
    if load_method(method_section(name)).sets_initial_state:
        with pytest.raises(KernelError, match=r"initial state|final state"):
            gradients(name)
        return
    theirs = gradients(name)
    backend.use("reference")
    ours = gradients(name)
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(value, ours[key], msg=key)


@pytest.mark.parametrize("name", ["initial_state", "prefix"])
def test_a_run_whose_method_sets_the_state_is_refused_before_data_are_read(name: str) -> None:
    config = compose([f"method={name}", "task=samsum", "model=tiny", "data=sample", "backend=mamba_ssm"])
    with pytest.raises(UserError, match=f"method={name}: .*no initial state"):
        build_experiment(config)


def test_it_is_refused_before_anything_runs() -> None:
    for device, dtype, said in (
        (CPU, torch.float32, "the device is cpu"),
        (GPU, torch.float64, "not float64"),
        (GPU, torch.bfloat16, r"mamba-ssm cannot be imported .*pip install"),
    ):
        with pytest.raises(KernelError, match=f"backend=mamba_ssm cannot run here: .*{said}"):
            backend.choose("mamba_ssm", device, dtype)
    u = torch.randn(1, 3, 8)
    with pytest.raises(KernelError, match="selective_scan: backend=mamba_ssm cannot run: the device is cpu"):
        selective_scan(u, u, -torch.rand(8, 2), torch.randn(1, 3, 2), torch.randn(1, 3, 2))
    backend.use("auto")
