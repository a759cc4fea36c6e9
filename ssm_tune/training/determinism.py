"""train.deterministic: bit-identical results in every run. The kernels of this project always add in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ssm_tune.utils.errors import UserError

VARIABLE, FIXED = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
"""cuBLAS adds in one order only in workspaces of a fixed size, which it reads from this variable when it starts."""


def fix_cublas_workspace() -> None:
    """Give cuBLAS a workspace of a fixed size. Raises UserError where it has started with another."""
    if not torch.cuda.is_available() or os.environ.get(VARIABLE) in FIXED:
        return
    if torch.cuda.is_initialized():
        raise UserError(
            f"train.deterministic=true must be set before this process uses the GPU: set {VARIABLE}={FIXED[0]}, or run "
            "this experiment in a process of its own"
        )
    os.environ[VARIABLE] = FIXED[0]


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """PyTorch uses operations that add in a fixed order, and raises for those that have none."""
    options: Any = torch.utils.deterministic
    before, fills = torch.are_deterministic_algorithms_enabled(), options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    options.fill_uninitialized_memory = False  # it costs a launch for each tensor; our kernels write all they return
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        options.fill_uninitialized_memory = fills
