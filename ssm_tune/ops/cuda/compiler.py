"""CUDA C++ to machine code with NVRTC, at first use, and a cache of it on disk.

NVRTC comes with the CUDA builds of PyTorch (and as the wheel nvidia-cuda-nvrtc); the sources include no header, so
neither nvcc nor a host compiler nor a toolkit is needed, and no GPU either: any machine compiles for any architecture.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ssm_tune.utils.errors import UserError, first_line
from ssm_tune.utils.files import atomic_write, cache_dir

SOURCES = Path(__file__).resolve().parent.parent  # the folder ops/, which holds each kernel beside its operation
OPTIONS = ("--std=c++17", "--ptxas-options=-v")
CACHE_VARIABLE = "SSM_TUNE_KERNEL_CACHE"
INSTEAD = "backend=reference runs without it"


class KernelError(UserError):
    """A kernel could not be compiled, loaded or launched; the message says what to do."""


@dataclass(frozen=True)
class Kernel:
    """One variant of one kernel.

    name: its entry; file: its source without ".cu", below ops/ or, of a kernel elsewhere, an absolute path;
    macros: its -D options.
    """

    name: str
    file: str
    macros: tuple[tuple[str, int], ...]

    @staticmethod
    def of(name: str, macros: Mapping[str, int], file: str | None = None) -> Kernel:
        return Kernel(name, file or name, tuple(sorted(macros.items())))

    @property
    def source(self) -> str:
        return "\n".join(_text(name) for name in ("cuda/intrinsics", "cuda/common", self.file))


@dataclass(frozen=True)
class Compiled:
    """Machine code, and what ptxas reports: registers a thread and bytes of spills."""

    cubin: bytes
    registers: int | None
    spills: int | None


@cache
def _text(name: str) -> str:
    return (SOURCES / f"{name}.cu").read_text()


@cache
def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # loads the library
    except Exception as error:  # the binding has an error class of its own for a library that is not there
        raise KernelError(
            f"CUDA kernels need cuda-bindings and NVRTC, which come with PyTorch's CUDA wheels ({first_line(error)}); "
            f"install ssm-tune[cuda], or {INSTEAD}"
        ) from error
    return nvrtc


def nvrtc_version() -> str:
    """NVRTC's version, as "13.0". Raises KernelError where there is none."""
    _, major, minor = _nvrtc().nvrtcVersion()
    return f"{major}.{minor}"


def compile_kernel(kernel: Kernel, arch: str) -> Compiled:
    """Compile for ``arch`` ("sm_90"), past the cache.

    Raises:
        KernelError: NVRTC is missing, or refuses; its log is in the message.
    """
    nvrtc = _nvrtc()
    options = [f"--gpu-architecture={arch}", *OPTIONS, f"-DENTRY_{kernel.name}"]  # a file may hold several entries
    options += [f"-D{name}={value}" for name, value in kernel.macros]
    status, program = nvrtc.nvrtcCreateProgram(kernel.source.encode(), f"{kernel.file}.cu".encode(), 0, [], [])
    _check(nvrtc, status, "create a program")
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = _fetch(nvrtc, program, "ProgramLog").decode(errors="replace").strip("\0\n ")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelError(f"NVRTC {nvrtc_version()} cannot compile {kernel.name} for {arch}; {INSTEAD}. Log: {log}")
        cubin = _fetch(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    registers = re.search(r"Used (\d+) registers", log)
    spills = [int(size) for size in re.findall(r"(\d+) bytes spill stores", log)]
    return Compiled(cubin, int(registers[1]) if registers else None, sum(spills) if spills else None)


def _fetch(nvrtc: Any, program: Any, what: str) -> bytes:
    status, size = getattr(nvrtc, f"nvrtcGet{what}Size")(program)
    _check(nvrtc, status, f"size its {what}")
    buffer = bytearray(size)
    view = bytes(buffer)
    (status,) = getattr(nvrtc, f"nvrtcGet{what}")(program, view)
    _check(nvrtc, status, f"give its {what}")
    return view


def _check(nvrtc: Any, status: Any, doing: str) -> None:
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise KernelError(f"NVRTC could not {doing} ({status.name}); {INSTEAD}")


def cached_cubin(kernel: Kernel, arch: str, again: bool = False) -> bytes:
    """Machine code from the cache, else compiled and, where the folder can be written, cached; ``again``: not from the
    cache.

    Any number of processes may do this at once: a file appears whole under its name or not at all. A first
    compilation is reported in one line on stderr.
    """
    key = hashlib.sha256("\0".join([kernel.source, arch, nvrtc_version(), *OPTIONS, repr(kernel)]).encode())
    path = cache_folder() / f"{kernel.name}-{arch}-{key.hexdigest()[:24]}.cubin"
    try:
        kept = path.read_bytes()
        if kept.startswith(b"\x7fELF") and not again:
            return kept
    except OSError:
        pass
    began = time.perf_counter()
    cubin = compile_kernel(kernel, arch).cubin
    message = f"compiled {kernel.name} for {arch} in {time.perf_counter() - began:.1f} s"
    try:
        atomic_write(path, [cubin])
    except UserError as error:
        message += f" (not cached: {error}; name another folder with {CACHE_VARIABLE})"
    print(message, file=sys.stderr, flush=True)
    return cubin


def cache_folder() -> Path:
    """$SSM_TUNE_KERNEL_CACHE, else kernels/ in the folder of all caches."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else cache_dir() / "kernels"


def require_compiling(arch: str) -> None:
    """Compile a kernel that does nothing. Raises KernelError where NVRTC cannot compile for ``arch``."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(b'extern "C" __global__ void k() {}', b"k.cu", 0, [], [])
    (status,) = nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture={arch}".encode()])
    nvrtc.nvrtcDestroyProgram(program)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise KernelError(f"NVRTC cannot compile for {arch} ({status.name})")
