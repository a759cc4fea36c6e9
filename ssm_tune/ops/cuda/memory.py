"""Memory of the GPU."""

from __future__ import annotations

import gc

import torch


def free_memory() -> None:
    """Collect garbage, and give the memory that PyTorch's allocator holds unused back to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
