"""What a run may change of its process, put back between two runs; and whether it has left memory behind."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

FIXED_AT_START = ("CUBLAS_WORKSPACE_CONFIG",)
"""Variables that libraries read once: a run may set one for those behind it."""
SLACK = 1 << 30
"""Bytes that memory may grow above twice its level after the first run."""


class ProcessState:
    """The process as it is now, before its first run."""

    def __init__(self) -> None:
        self._environment, self._folder = dict(os.environ), Path.cwd()
        self._random = random.getstate()
        self._threads: int | None = None
        self._level: int | None = None

    def before_run(self) -> None:
        """Put random numbers and PyTorch's settings to what they are in a process that has done nothing yet."""
        random.setstate(self._random)
        if "torch" not in sys.modules:
            return
        import torch

        if self._threads is None:  # the first run has imported PyTorch
            self._threads = torch.get_num_threads()
        torch.manual_seed(torch.Generator().initial_seed())  # which a new generator has, and a new process
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        if torch.are_deterministic_algorithms_enabled():  # not in any case: it imports PyTorch's compiler
            torch.use_deterministic_algorithms(False)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def after_run(self) -> None:
        """Put back variables and the current folder, and give memory back to the system."""
        for name in os.environ.keys() - self._environment.keys() - set(FIXED_AT_START):
            del os.environ[name]
        os.environ.update({name: one for name, one in self._environment.items() if name not in FIXED_AT_START})
        os.chdir(self._folder)
        gc.collect()
        if not gc.get_freeze_count():
            gc.freeze()  # imports and what runs share: walking them took a third of a short run's time
        if (torch := _cuda()) is not None:
            torch.cuda.empty_cache()
        with suppress(OSError, AttributeError):  # another C library than glibc keeps what it keeps
            ctypes.CDLL(None).malloc_trim(0)

    def leaks(self) -> bool:
        """Whether much more memory is in use than after the first run."""
        used = memory_in_use()
        if self._level is None:
            self._level = used
        return used > 2 * self._level + SLACK


def memory_in_use() -> int:
    """Bytes of the process in memory, and of its tensors on the GPU; 0 where the system does not tell."""
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        resident = 0
    torch = _cuda()
    return resident + (int(torch.cuda.memory_allocated()) if torch is not None else 0)


def _cuda() -> Any:
    """PyTorch where this process uses a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None
