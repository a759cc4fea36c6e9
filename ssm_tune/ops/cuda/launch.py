"""Launching kernels from Python: loaded once a process and device, on PyTorch's current stream and memory.

Arguments travel as one struct by value (cuda/arguments.py).
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ssm_tune.ops.cuda.compiler import INSTEAD, Kernel, KernelError, cached_cubin
from ssm_tune.utils.phases import CLOCK

P = ParamSpec("P")
T = TypeVar("T")
OLDEST = (8, 0)
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""How the kernels number dtypes; they take no others."""

_lock = threading.Lock()
_loaded: dict[tuple[Kernel, int], tuple[int, int]] = {}


@cache
def arch_of(device: int) -> str:
    """The architecture to compile for, as "sm_90". Raises KernelError for a GPU older than sm_80."""
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        name = torch.cuda.get_device_name(device)
        raise KernelError(f"the CUDA kernels need a GPU of capability 8.0 or later; {name} has {capability}; {INSTEAD}")
    return "sm_{}{}".format(*capability)


def launch(
    kernel: Kernel, grid: tuple[int, int, int], threads: int, shared: int, arguments: ctypes.Structure, device: Any
) -> None:
    """Run ``kernel`` on the current stream of ``device``.

    Args:
        grid: blocks in x, y and z. threads: of a block. shared: bytes of shared memory a block.
        arguments: the struct that the kernel takes; the driver copies it.

    Raises:
        KernelError: the kernel cannot be compiled, loaded or started.
    """
    from cuda.bindings import driver

    index = device.index if device.index is not None else torch.cuda.current_device()
    function = _function(kernel, index, shared)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    stream = torch.cuda.current_stream(index).cuda_stream
    with torch.cuda.device(index):
        (status,) = driver.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, ctypes.addressof(pointers), 0)
    _check(status, f"start {kernel.name}")


def _function(kernel: Kernel, index: int, shared: int) -> int:
    found = _loaded.get((kernel, index))
    if found is None or found[1] < shared:
        with _lock, CLOCK.phase("kernels"):
            found = _load(kernel, index, shared)
            _loaded[kernel, index] = found
    return found[0]


def _load(kernel: Kernel, index: int, shared: int) -> tuple[int, int]:
    from cuda.bindings import driver

    torch.cuda.init()
    with torch.cuda.device(index):
        for again in (False, True):  # a file of the cache may be damaged: compiled again, once
            machine_code = cached_cubin(kernel, arch_of(index), again)
            status, library = driver.cuLibraryLoadData(machine_code, [], [], 0, [], [], 0)
            if int(status) == 0:
                break
        _check(status, f"load {kernel.name}")
        status, entry = driver.cuLibraryGetKernel(library, kernel.name.encode())
        _check(status, f"find {kernel.name}")
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if shared > 48 * 1024:
            (status,) = driver.cuKernelSetAttribute(most, shared, entry, driver.CUdevice(index))
            _check(status, f"give {kernel.name} {shared} bytes of shared memory")
    return int(entry), shared


def _check(status: Any, doing: str) -> None:
    if int(status) != 0:
        raise KernelError(f"CUDA could not {doing} ({status.name}); {INSTEAD}")


def names_memory(operation: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: out-of-memory errors name the operation, its first tensor, and the memory that was asked for."""

    def around(work: Callable[P, T]) -> Callable[P, T]:
        @wraps(work)
        def named(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return work(*args, **kwargs)
            except torch.OutOfMemoryError as error:
                first = next(x for x in args if isinstance(x, Tensor))
                dtype = str(first.dtype).removeprefix("torch.")
                wanted = re.search(r"Tried to allocate [\d.]+ \w+", str(error))
                raise torch.OutOfMemoryError(
                    f"{operation}: out of GPU memory on {tuple(first.shape)} {dtype}, "
                    f"{first.numel() * first.element_size()} bytes ({wanted[0] if wanted else error}); "
                    "train.micro_batch or a smaller decode.batch_size needs less"
                ) from error

        return named

    return around


def gradients_of(given: Sequence[Tensor | None], wanted: list[bool]) -> list[Tensor]:
    """An uninitialised gradient, contiguous, for each input that wants one; an empty tensor for the others."""
    first = given[0]
    assert first is not None
    return [
        torch.empty_like(x, memory_format=torch.contiguous_format) if want and x is not None else first.new_empty(0)
        for x, want in zip(given, wanted, strict=True)
    ]


def dtype_code(tensor: Tensor | None) -> int:
    """The number by which the kernels know a tensor's dtype; 0 for no tensor."""
    return 0 if tensor is None else DTYPE_CODES[tensor.dtype]


def in_fours(tensor: Tensor) -> Tensor:
    """``tensor`` (B, L, D) if the kernels can read its rows four channels at a time where it lies, else a copy."""
    aligned = tensor.stride(2) == 1 and tensor.stride(0) % 4 == 0 and tensor.stride(1) % 4 == 0
    if aligned and tensor.data_ptr() % (4 * tensor.element_size()) == 0 and tensor.stride(1) < 2**31:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def in_twos(tensor: Tensor) -> Tensor:
    """``tensor`` (B, L, N) if the kernels can read its states two at a time where it lies, else a padded copy."""
    even = tensor.shape[2] % 2 == 0 and tensor.stride(0) % 2 == 0 and tensor.stride(1) % 2 == 0
    aligned = tensor.stride(2) == 1 and tensor.data_ptr() % (2 * tensor.element_size()) == 0
    if even and aligned and tensor.stride(1) < 2**31:
        return tensor
    return torch.nn.functional.pad(tensor, (0, tensor.shape[2] % 2)).clone(memory_format=torch.contiguous_format)
