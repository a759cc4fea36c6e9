"""Dispatch: what runs where, and the reason that is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ssm_tune.ops import backend
from ssm_tune.ops.cuda.compiler import KernelError
from ssm_tune.ops.selective_scan import selective_scan
from ssm_tune.ops.selective_scan.variants import CHUNK, TILE, backward_plan, forward_split, split_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    backend.use("auto")


def test_a_cpu_takes_the_reference_and_says_why() -> None:
    choice = backend.choose("auto", CPU, torch.float32)
    assert choice.name == "reference"
    assert "cpu" in choice.why


def test_forced_kernels_are_refused_by_name_where_they_cannot_run() -> None:
    with pytest.raises(KernelError, match="the device is cpu"):
        backend.choose("cuda", CPU, torch.float32)
    u = torch.randn(1, 3, 8)
    with pytest.raises(KernelError, match="selective_scan: backend=cuda cannot run: the device is cpu"):
        selective_scan(u, u, -torch.rand(8, 2), torch.randn(1, 3, 2), torch.randn(1, 3, 2))


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, cuda, mamba_ssm, reference"):
        backend.use("triton")


def test_a_dtype_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_device_obstacle", lambda index: None)
    assert "float64" in backend.choose("auto", torch.device("cuda", 0), torch.float64).why


@pytest.mark.parametrize(
    ("channels", "states", "said"), [(12, 16, "multiple of 8"), (16, 65, "at most 64 states"), (16, 64, None)]
)
def test_sizes_that_do_not_fit_are_named(
    channels: int, states: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_obstacle", lambda device, dtype: None)
    assert backend.kernels_run("scan", torch.empty(1), channels, states) == (said is None)
    if said is not None:
        backend.use("cuda")
        with pytest.raises(KernelError, match=said):
            backend.kernels_run("scan", torch.empty(1), channels, states)


@pytest.mark.parametrize("shape", [(0, 8), (65536, 8)])
def test_an_empty_or_endless_batch_is_named(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_obstacle", lambda device, dtype: None)
    assert not backend.kernels_run("conv", torch.empty(shape), 8)
    backend.use("cuda")
    with pytest.raises(KernelError, match="batch must be from 1 to 65535"):
        backend.kernels_run("conv", torch.empty(shape), 8)


def no_compiler(name: str) -> None:
    raise RuntimeError("Failed to find C compiler.")


@pytest.mark.parametrize(("name", "instead"), [("find_spec", lambda name: None), ("import_module", no_compiler)])
def test_a_triton_that_cannot_start_is_named(name: str, instead: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_obstacle", lambda device, dtype: None)
    monkeypatch.setattr(backend, "find_spec", lambda name: object())
    monkeypatch.setattr(backend, name, instead)
    backend.triton_obstacle.cache_clear()
    try:
        with pytest.warns(UserWarning, match="plain PyTorch, more slowly: .*Triton"):
            assert not backend.kernels_run("scan", torch.empty(1), 8, triton=True)
        assert backend.kernels_run("scan", torch.empty(1), 8)
        backend.use("cuda")
        with pytest.raises(KernelError, match="Triton"):
            backend.kernels_run("scan", torch.empty(1), 8, triton=True)
    finally:
        backend.triton_obstacle.cache_clear()


@pytest.mark.parametrize("states", range(1, 65))
@pytest.mark.parametrize("channels", [8, 1536, 10**6])
def test_every_split_holds_its_states(states: int, channels: int) -> None:
    forward = forward_split(states, channels, 132)
    backward, segments = backward_plan(states, channels, 777, 3, 132, False)
    for split in (forward, backward, split_of(states)):
        assert split.wide >= states
        assert split.wide == split_of(states).wide  # the kept states are laid out alike
        assert split.channels % 4 == 0
        assert 32 % split.lanes == 0
        assert TILE % split.lanes == 0
        assert CHUNK % split.lanes == 0
    assert 1 <= segments <= -(-777 // CHUNK)
