"""Provenance: against git, the package metadata and the kernel's own figures."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from ssm_tune.records import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    (tmp_path / ".gitignore").write_text("ignored/\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_versions_are_those_of_the_packages() -> None:
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # some wheels alone name their CUDA
    for name in ("numpy", "hydra-core", "datasets", "tokenizers", "safetensors", "rouge-score"):
        assert found[name] == metadata.version(name)


def test_absent_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.metadata, "version", absent)
    found = provenance.versions()
    assert found["torch"] == "not installed"
    assert not found.keys() & set(provenance.OPTIONAL)


def test_clean_checkout(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert provenance.git_state(checkout) == {"commit": commit, "dirty": False, "diff_sha256": None}


def test_every_change_makes_it_dirty_with_another_hash(checkout: Path) -> None:
    hashes = set()
    for name, text in (("code.py", "a = 2\n"), ("code.py", "a = 3\n"), ("new.py", "b = 1\n")):
        (checkout / name).write_text(text)
        state = provenance.git_state(checkout)
        assert state is not None
        assert state["dirty"]
        hashes.add(state["diff_sha256"])
    git(checkout, "add", "code.py")
    state = provenance.git_state(checkout)
    assert state is not None
    status, diff = git(checkout, "status", "--porcelain"), git(checkout, "diff", "HEAD")
    assert state["diff_sha256"] == hashlib.sha256((status + diff).encode()).hexdigest()
    assert len(hashes) == 3


def test_what_runs_leave_is_no_change_of_the_code(checkout: Path) -> None:
    clean = provenance.git_state(checkout)
    (checkout / "results" / "runs").mkdir(parents=True)
    (checkout / "results" / "runs" / "record.json").write_text("{}")
    assert provenance.git_state(checkout) == clean
    (checkout / "inside").mkdir()
    (checkout / "inside" / "new.py").write_text("b = 1\n")
    git(checkout, "add", "inside")
    git(checkout, "commit", "-qm", "inside")
    (checkout / "new.py").write_text("")
    state = provenance.git_state(checkout / "inside")
    assert state is not None
    assert state["dirty"]  # above the folder too


def test_before_the_first_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", "-A")
    state = provenance.git_state(tmp_path)
    assert state is not None
    assert (state["commit"], state["dirty"]) == (None, True)


def test_an_installed_copy_in_somebody_elses_checkout_has_no_state(checkout: Path) -> None:
    inside = checkout / "ignored" / "site-packages"
    inside.mkdir(parents=True)
    (inside / "code.py").write_text("a = 1\n")
    assert provenance.git_state(inside) is None


def test_no_checkout_no_folder_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.git_state(tmp_path) is None
    assert provenance.git_state(tmp_path / "none") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(Path(__file__).parent) is None


def test_hardware_agrees_with_the_kernel() -> None:
    found = provenance.hardware()
    assert found["platform"] == platform.platform()
    assert found["cores"] >= 1
    assert (found["gpu"] is None) == (not torch.cuda.is_available())
    if sys.platform == "linux":
        total = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        assert total is not None
        assert found["memory_bytes"] == pytest.approx(int(total[1]) * 1024, rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_peak_memory_is_the_kernels_high_water_mark() -> None:
    block = bytearray(os.urandom(1)) * 50_000_000
    peak = provenance.peak_memory_bytes("cpu")
    mark = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert mark is not None
    assert peak is not None
    # a child of fork inherits ru_maxrss, so this can lie above this process's own mark but not below
    assert peak >= 0.98 * int(mark[1]) * 1024 > len(block)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu() -> None:
    gpu = provenance.hardware()["gpu"]
    assert gpu["name"] == torch.cuda.get_device_name()
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", gpu["driver"])
    torch.cuda.reset_peak_memory_stats()
    block = torch.zeros(10_000_000, device="cuda")
    assert provenance.peak_memory_bytes("cuda") >= block.numel() * 4
