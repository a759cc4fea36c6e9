"""Where a number comes from: versions, the state of the source, the machine, the memory it took.

Nothing here fails a run: what cannot be found out is None.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

REQUIRED = (
    "ssm-tune",
    "torch",
    "numpy",
    "hydra-core",
    "omegaconf",
    "datasets",
    "huggingface-hub",
    "tokenizers",
    "safetensors",
    "rouge-score",
)
PACKAGE = Path(__file__).resolve().parents[1]
"""the folder of this package's source"""
OPTIONAL = ("mamba-ssm", "causal-conv1d", "triton")
_CODE = ("--", ":/", ":(top,exclude)results")


def versions() -> dict[str, str]:
    """Version by distribution name, and Python's; optional packages only where installed.

    "not installed" for ssm-tune itself means that it runs from a source folder.
    """
    found = {"python": platform.python_version()}
    for name in (*REQUIRED, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name in REQUIRED:
                found[name] = "not installed"
    return found


def git_state(folder: Path | str) -> dict[str, Any] | None:
    """{"commit", "dirty", "diff_sha256"} of the checkout whose tracked files lie in ``folder``, else None.

    commit: None before the first one. diff_sha256: of the tracked files' changes and the names of the
    untracked ones, None when clean; what runs have left below results/ is no change. A folder that its
    surrounding repository does not track (an installed copy in somebody's project) has no state, for that
    commit would say nothing about this code.
    """
    if not _git(folder, "ls-files", "--", "."):
        return None
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    status = _git(folder, "status", "--porcelain", *_CODE)
    diff = _git(folder, "diff", "--no-ext-diff", "--no-textconv", "--binary", *(["HEAD"] if commit else []), *_CODE)
    if status is None or diff is None:
        return None
    dirty = bool(status)
    return {
        "commit": commit.decode("ascii").strip() if commit else None,
        "dirty": dirty,
        "diff_sha256": hashlib.sha256(status + diff).hexdigest() if dirty else None,
    }


def hardware() -> dict[str, Any]:
    """Platform, processor, usable cores, memory in bytes, and "gpu": None or the current CUDA device."""
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpu": _gpu(),
    }


def reset_peak_memory() -> None:
    """Begin anew what ``peak_memory_bytes`` tells; of a process only Linux can."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: Any) -> int | None:
    """Most memory in use so far: by tensors on a CUDA device, else resident for the whole process.

    device: a torch.device or its name. None where the system does not tell.
    """
    if str(device).startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _git(folder: Path | str, *arguments: str) -> bytes | None:
    """What git prints, or None for any failure."""
    return _output(["git", "-C", str(folder), *arguments])


def _output(command: list[str]) -> bytes | None:
    # no optional locks: looking must not write into the user's repository
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, capture_output=True, check=True, timeout=30, env=environment, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _cpu_model() -> str | None:
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        named = None
    if named:
        return named[1].strip()
    if sys.platform == "darwin":
        brand = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
        if brand:
            return brand.decode(errors="replace").strip()
    return platform.processor() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _gpu() -> dict[str, Any] | None:
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "count": torch.cuda.device_count(),
        "driver": driver.decode(errors="replace").split("\n")[0].strip() if driver else None,
        "cuda": torch.version.cuda,
    }
