"""CPU threads: one for a small model, unless the user has chosen."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from ssm_tune.cli import main
from ssm_tune.models.config import MambaConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.threads import cpu_threads


@pytest.fixture(autouse=True)
def several_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("width", "threads"), [(128, 1), (768, 2)])
def test_a_small_model_takes_one_thread(width: int, threads: int) -> None:
    with cpu_threads(Mamba(MambaConfig(width, 1, 8))):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with cpu_threads(Mamba(MambaConfig(128, 1, 8))):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}], ids=str)
def test_threads_wait_briefly_unless_the_user_has_chosen(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"], **given})
    assert main(["--version"]) == 0
    expected = given or {"GOMP_SPINCOUNT": "1000"}
    assert {name: value for name, value in os.environ.items() if name != "PATH"} == expected
