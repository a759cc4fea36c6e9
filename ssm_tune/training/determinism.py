"""train.deterministic: the same bits in every run. The kernels of this project add in a fixed order anyway."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ssm_tune.utils.errors import UserError

VARIABLE, FIXED = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
"""cuBLAS promises one order of sums only in workspaces of a fixed size, which it reads from here when it starts."""


def fix_workspace() -> None:
    """Give cuBLAS a workspace of a fixed size. Raises UserError where it has started with another."""
    if not torch.cuda.is_available() or os.environ.get(VARIABLE) in FIXED:
        return
    if torch.cuda.is_initialized():
        raise UserError(
            f"train.deterministic=true has to be known before this process uses the GPU: set {VARIABLE}={FIXED[0]}, or "
            "run this cell in a process of its own"
        )
    os.environ[VARIABLE] = FIXED[0]


@contextmanager
def same_bits() -> Iterator[None]:
    """Within it PyTorch takes operations that add in a fixed order, and refuses those that have none by name."""
    options: Any = torch.utils.deterministic
    before, fills = torch.are_deterministic_algorithms_enabled(), options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    options.fill_uninitialized_memory = False  # a launch a tensor; our kernels write all that they return
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        options.fill_uninitialized_memory = fills
