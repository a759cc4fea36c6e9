"""Shared by all tests: which tests need a GPU, and where the real data may lie."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


# a busy machine must not fail a test: nothing here is timed
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def shared() -> Path:
    """The folder with real data and a real model beside the checkout, where there is one."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED.name}/ with real data beside the checkout")
    return SHARED
