"""What uninitialised memory holds in these tests: NaN, so that nothing unwritten passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ssm_tune.ops import backend


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    backend.use("auto")
