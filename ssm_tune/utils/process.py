"""Which process this is, and whether another of this machine still runs (standard library only)."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """This process. machine: the same for two processes only where each can look for the other's pid."""
    slurm = os.environ.get("SLURM_JOB_ID")
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "start": start_time_of(os.getpid()),
        "job": f"{os.environ.get('SLURM_CLUSTER_NAME', '')}/{slurm}".lstrip("/") if slurm else None,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


@functools.cache
def _machine() -> str:
    """Host, boot and process namespace: containers and cloned machines may share a host name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def start_time_of(pid: int) -> str | None:
    """When a process of this machine started, in the system's own words; None where it is gone."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]  # a zombie has ended
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
