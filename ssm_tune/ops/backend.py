"""Which implementation runs: the CUDA kernels where they can, plain PyTorch elsewhere, and the reason.

backend=mamba_ssm, for comparison, runs the scan and the convolution of other packages (mamba_ssm_backend.py); norm and
decode steps then run as with auto.

The backend is a setting of the process, as ``torch.backends`` has them: ``_wanted`` here is its only home. ``use`` and
``choose`` set it; ``kernels_run`` and ``mamba_ssm_runs``, which every operation asks, are all that reads it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from ssm_tune.ops import mamba_ssm_backend
from ssm_tune.ops.cuda.compiler import KernelError, nvrtc_version
from ssm_tune.ops.cuda.launch import DTYPE_CODES, arch_of

BACKENDS = ("auto", "cuda", "mamba_ssm", "reference")
MOST_STATES = 64
_MOST_ROWS = 65535
"""Blocks in the second and third dimension of a launch."""

_wanted = "auto"


@dataclass(frozen=True)
class Choice:
    """``name``: cuda, mamba_ssm or reference; ``why``: in words, for the log."""

    name: str
    why: str


def use(wanted: str) -> None:
    """Set what every operation of this process uses: "auto", "cuda", "mamba_ssm" or "reference"."""
    global _wanted
    if wanted not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {wanted!r}")
    _wanted = wanted


def choose(wanted: str, device: torch.device, dtype: torch.dtype) -> Choice:
    """Set the backend, and say what tensors of ``dtype`` on ``device`` will run on.

    Raises:
        KernelError: a backend is forced and cannot run; the reason is named.
    """
    use(wanted)
    if wanted == "reference":
        return Choice("reference", "backend=reference")
    if wanted == "mamba_ssm":
        obstacle = _mamba_ssm_obstacle(device, dtype)
        if obstacle is not None:
            raise KernelError(f"backend=mamba_ssm cannot run here: {obstacle}; or leave backend=auto")
        return Choice("mamba_ssm", "backend=mamba_ssm; norm and decode steps as with auto")
    reason = _obstacle(device, dtype)
    if reason is None:
        return Choice("cuda", f"NVRTC {nvrtc_version()} for {arch_of(_index(device))}")
    if wanted == "cuda":
        raise KernelError(f"backend=cuda cannot run here: {reason}; leave backend=auto or take backend=reference")
    return Choice("reference", reason)


def kernels_run(
    operation: str, x: Tensor, channels: int, states: int = 1, obstacle: str | None = None, triton: bool = False
) -> bool:
    """Whether ``operation`` on ``x`` runs on the CUDA kernels, or on Triton's where ``triton``.

    obstacle: why this operation's own cannot take ``x``.

    Raises:
        KernelError: backend=cuda is forced and cannot take these tensors; the reason is named.
    """
    if _wanted == "reference":
        return False
    reason = _obstacle(x.device, x.dtype) or obstacle or (triton_obstacle() if triton else None)
    if reason is None and (x.numel() == 0 or x.shape[0] > _MOST_ROWS):
        reason = f"the batch must be from 1 to {_MOST_ROWS}, and nothing else empty, got {tuple(x.shape)}"
    if reason is None and channels % 8:
        reason = f"the number of channels must be a multiple of 8, got {channels}"
    if reason is None and states > MOST_STATES:
        reason = f"there may be at most {MOST_STATES} states a channel, got {states}"
    if reason is not None and _wanted == "cuda":
        raise KernelError(f"{operation}: backend=cuda cannot run: {reason}; leave backend=auto")
    return reason is None


@cache
def triton_obstacle() -> str | None:
    """Why kernels that are Triton's cannot run on this process's GPU; None if they can.

    Triton compiles the code that launches its kernels with a C compiler, which not every machine with a GPU has. That
    is tried here, once; where it fails, a warning says what is slower for it.
    """
    if find_spec("triton") is None:
        reason = "these kernels are Triton's, and the package triton is missing (PyTorch's CUDA wheels bring it)"
    else:
        try:
            driver = import_module("triton.runtime.driver").driver
            driver.active.get_current_target()
            return None
        except Exception as error:  # Triton's own, the compiler's, the system's
            said = str(error).splitlines() or [type(error).__name__]
            reason = f"Triton cannot start here ({said[0]}); it needs a C compiler and Python's headers (python3-dev)"
    warnings.warn(f"Mamba-2's scan and norm run on plain PyTorch, more slowly: {reason}", stacklevel=2)
    return reason


def mamba_ssm_runs(operation: str, x: Tensor) -> bool:
    """Whether ``operation`` on ``x`` runs on the packages of backend=mamba_ssm.

    Raises:
        KernelError: it is asked for and cannot take this tensor; the reason is named.
    """
    if _wanted != "mamba_ssm":
        return False
    reason = _mamba_ssm_obstacle(x.device, x.dtype)
    if reason is None and x.numel() == 0:
        reason = f"nothing may be empty, got {tuple(x.shape)}"
    if reason is not None:
        raise KernelError(f"{operation}: backend=mamba_ssm cannot run: {reason}; or leave backend=auto")
    return True


def _mamba_ssm_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"the device is {device.type}"
    if dtype not in DTYPE_CODES:
        return f"mamba-ssm takes float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    return mamba_ssm_backend.missing()


def _obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"the device is {device.type}"
    if dtype not in DTYPE_CODES:
        return f"the kernels take float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    return _device_obstacle(_index(device))


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@cache
def _device_obstacle(index: int) -> str | None:
    if torch.version.cuda is None:
        return "this PyTorch is not built for CUDA"
    try:
        arch_of(index)
        nvrtc_version()
    except KernelError as error:
        return str(error).split("; ")[0]
    return None
