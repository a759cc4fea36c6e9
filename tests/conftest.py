"""Shared by all tests: which tests need a GPU, and where the real data may lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

DATA_VARIABLE = "SSM_TUNE_TEST_DATA"
"""names the folder of real data and models that some tests use: data/glue, data/spider, models/mamba-25m ..."""


# a busy machine must not fail a test: nothing here is timed
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSM_TUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models that ``SSM_TUNE_TEST_DATA`` names."""
    if not (folder := os.environ.get(DATA_VARIABLE)):
        pytest.skip(f"{DATA_VARIABLE} names no folder of real data")
    return Path(folder)
