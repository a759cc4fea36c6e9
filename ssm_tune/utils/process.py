"""Which process this is, and whether another one of this machine still runs (standard library only)."""

from __future__ import annotations

import functools
import os
import re
import socket
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def this_process() -> dict[str, Any]:
    """This process, as it is written into lock files.

    machine: equal for two processes only where each can look up the other's pid. start: when it started, for a pid may
    be used again. job, restart: SLURM's id of the job, and how often SLURM has started it again.
    """
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


def booted_again(machine: str) -> bool:
    """Whether ``machine``, of a ``this_process`` made earlier, is this host before it was last booted."""
    then, now_ = machine.split(" "), _machine().split(" ")
    if len(then) < 2 or len(now_) < 2 or then[0] != now_[0]:
        return False
    boots = (then[1], now_[1])
    return boots[0] != boots[1] and all(_BOOT_ID.fullmatch(boot) for boot in boots)


def start_time_of(pid: int) -> str | None:
    """When a process of this machine started, in the system's own words; None where it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]  # a zombie has ended
    except (OSError, IndexError, ValueError):
        if Path("/proc/self/stat").exists():
            return None
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def now() -> str:
    """UTC to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
