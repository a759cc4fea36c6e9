"""What fails between Python and the GPU is named, or repaired: no NVRTC, an old GPU, bad caches, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
import torch

from ssm_tune.ops import backend
from ssm_tune.ops.causal_conv1d import cuda as conv_kernels
from ssm_tune.ops.cuda import compiler, launch
from ssm_tune.ops.cuda.compiler import Kernel, KernelError, cached_cubin
from ssm_tune.utils.errors import UserError

GPU = torch.device("cuda", 0)
SIMPLE = Kernel.of("sum_partials", {"DTYPE": 0}, "cuda/sums")


class Status(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_IMAGE = 200


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    caches = (backend._device_obstacle, launch.arch_of)
    for kept in caches:
        kept.cache_clear()
    yield
    for kept in caches:
        kept.cache_clear()
    backend.use("auto")


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """PyTorch tells of a GPU of capability 9.0; nothing runs on it."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    return monkeypatch


@pytest.fixture
def a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In NVRTC's place, with a cache of its own."""
    monkeypatch.setenv(compiler.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(compiler, "nvrtc_version", lambda: "13.0")
    made = compiler.Compiled(b"\x7fELF" + bytes(500), 32, 0)
    monkeypatch.setattr(compiler, "compile_kernel", lambda kernel, arch: made)


def both(said: str) -> None:
    """auto falls back and gives the reason; forced kernels are refused with it."""
    choice = backend.choose("auto", GPU, torch.bfloat16)
    assert choice.name == "reference"
    assert said in choice.why
    with pytest.raises(KernelError, match="backend=cuda cannot run here") as caught:
        backend.choose("cuda", GPU, torch.bfloat16)
    assert said in str(caught.value)


def test_an_old_gpu_is_named(a_gpu: pytest.MonkeyPatch) -> None:
    a_gpu.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    both("need a GPU of capability 8.0 or later")


def test_a_missing_nvrtc_is_named(a_gpu: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise KernelError("CUDA kernels need cuda-bindings and NVRTC; install ssm-tune[cuda]")

    a_gpu.setattr(compiler, "_nvrtc", none)
    both("need cuda-bindings and NVRTC")


def test_a_pytorch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    both("this PyTorch is not built for CUDA")


@pytest.mark.usefixtures("a_compiler")
def test_a_damaged_file_of_the_cache_is_compiled_again(a_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    whole = cached_cubin(SIMPLE, "sm_90")
    (file,) = tmp_path.iterdir()
    file.write_bytes(whole[:100])
    loaded: list[bytes] = []

    def load(code: bytes, *_: Any) -> tuple[Status, int]:
        loaded.append(code)
        return (Status.CUDA_SUCCESS if code == whole else Status.CUDA_ERROR_INVALID_IMAGE), 1

    a_gpu.setattr(driver, "cuLibraryLoadData", load)
    a_gpu.setattr(driver, "cuLibraryGetKernel", lambda library, name: (Status.CUDA_SUCCESS, 7))
    assert launch._load(SIMPLE, 0, 0) == (7, 0)
    assert loaded == [whole[:100], whole]
    assert file.read_bytes() == whole
    a_gpu.setattr(driver, "cuLibraryLoadData", lambda *_: (Status.CUDA_ERROR_INVALID_IMAGE, 0))
    with pytest.raises(
        KernelError, match=r"could not load sum_partials \(CUDA_ERROR_INVALID_IMAGE\); backend=reference"
    ):
        launch._load(SIMPLE, 0, 0)


@pytest.mark.usefixtures("a_compiler")
def test_a_read_only_folder_is_read_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = cached_cubin(SIMPLE, "sm_90")

    def refuse(path: Path, chunks: Any) -> Any:
        raise UserError(f"cannot write {path}: Permission denied")

    monkeypatch.setattr(compiler, "atomic_write", refuse)  # root may write anywhere
    capsys.readouterr()
    assert cached_cubin(SIMPLE, "sm_90") == kept
    assert capsys.readouterr().err == ""
    assert cached_cubin(SIMPLE, "sm_80").startswith(b"\x7fELF")
    message = capsys.readouterr().err
    assert f"not cached: cannot write {tmp_path}" in message
    assert message.count("\n") == 1


def test_out_of_memory_names_operation_shape_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(conv_kernels.torch, "empty_like", full)
    with pytest.raises(
        torch.OutOfMemoryError,
        match=r"causal_conv1d: .* on \(2, 5, 8\) bfloat16, 160 bytes \(Tried to allocate 2.00 GiB\); .*batch_size",
    ):
        conv_kernels.run_forward(torch.zeros(2, 5, 8, dtype=torch.bfloat16), torch.zeros(8, 4), None, None)
