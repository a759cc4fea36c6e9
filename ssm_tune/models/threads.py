"""CPU threads for a model: a small one takes one, as it gains little by more and waits long for one on a busy core."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssm_tune.models.mamba import Mamba

SMALL = 256
"""Models of at most this width are small: one thread is much faster on busy cores, up to half slower on idle ones."""
CHOSEN = "OMP_NUM_THREADS", "MKL_NUM_THREADS"
"""Variables by which a user has chosen; PyTorch reads them."""


@contextmanager
def cpu_threads(model: Mamba) -> Iterator[None]:
    """Inside the block PyTorch has as many threads as suit the model, unless the user has chosen or it is on a GPU."""
    before = torch.get_num_threads()
    if model.device.type == "cpu" and model.config.d_model <= SMALL and not any(map(os.environ.get, CHOSEN)):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
