"""A lock file: what it says of the process that made it, and whether that process still runs.

Lock files come from outside: they may be damaged, or edited, and synchronisers add files of their own beside them.
What cannot be used is left out: a file whose name is not ``NUMBER.json`` is no lock file; a value of the wrong type
counts as missing; a file that cannot be read at all counts as the lock of an unknown process, which holds it for as
long as the file is young (``STALE_SECONDS``).
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import decode_json, read_bytes
from ssm_tune.utils.process import booted_again, start_time_of, this_process

HEARTBEAT_SECONDS = 30.0
"""A process that holds a lock refreshes the file's mtime this often."""
STALE_SECONDS = 600.0
"""The lock of a process on another machine is stale when its last heartbeat is older than this."""
ENDS = ("done", "stopped", "failed")
_TYPES: dict[str, tuple[type, ...]] = {
    "host": (str,),
    "machine": (str,),
    "pid": (int,),
    "start": (str,),
    "job": (str,),
    "restart": (int,),
    "begun": (str,),
    "ended": (str,),
    "outcome": (str,),
    "error": (str,),
    "seconds": (int, float),
    "asked": (str,),
    "label": (str,),
    "crash": (str,),
}
_NAME = re.compile(r"(?:0|[1-9][0-9]{0,17})\.json")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


@dataclass(frozen=True)
class LockFile:
    """One numbered file. contents: its JSON, as ``checked`` leaves it. heartbeat: its mtime."""

    path: Path
    contents: dict[str, Any]
    heartbeat: float

    @property
    def number(self) -> int:
        return int(self.path.stem)

    @property
    def ended(self) -> bool:
        return self.contents.get("outcome") in ENDS

    def holder(self) -> str:
        """The process that made it, in words."""
        known = self.contents
        job = f", SLURM job {known['job']}" if known.get("job") else ""
        return f"{known.get('host', 'unknown host')}, pid {known.get('pid', '?')}{job}, since {known.get('begun', '?')}"


def read_lock_file(path: Path) -> LockFile | None:
    """None where there is no such file; an unreadable one has no contents."""
    try:
        heartbeat = path.stat().st_mtime
    except OSError:
        return None
    try:
        contents = checked(decode_json(read_bytes(path)))
    except (UserError, ValueError, RecursionError):
        contents = {}
    return LockFile(path, contents, heartbeat)


def checked(contents: Any) -> dict[str, Any]:
    """The known keys whose values have the right type, texts without control characters."""
    if not isinstance(contents, dict):
        return {}
    found: dict[str, Any] = {}
    for name, types in _TYPES.items():
        value = contents.get(name)
        if isinstance(value, str) and str in types:
            found[name] = _CONTROL.sub(" ", value)
        elif isinstance(value, types) and not isinstance(value, bool) and 0 <= value < 2**53:  # type: ignore[operator]
            found[name] = value
    return found


def newest_lock_file(folder: Path) -> LockFile | None:
    """The one that holds the lock or held it last. Numbers are tried, not listed: a network listing may be old."""
    number = max((int(path.stem) for path in _listed(folder) if _NAME.fullmatch(path.name)), default=0)
    while (folder / f"{number + 1}.json").exists():
        number += 1
    return read_lock_file(folder / f"{number}.json")


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def is_held(lock: LockFile) -> bool:
    """Whether the process that made the lock file still runs, as far as can be told from here."""
    if lock.ended:
        return False
    here, there = this_process(), lock.contents
    if there.get("start") and "pid" in there and there.get("machine") == here["machine"]:
        return start_time_of(there["pid"]) == there["start"]
    if booted_again(there.get("machine", "")):
        return False
    if there.get("job") and there["job"] == here["job"] and there.get("restart", 0) < here["restart"]:
        return False  # this job, before SLURM started it again
    age = file_system_time(lock.path.parent) - lock.heartbeat
    # a heartbeat in the future is none: a process that runs sets it to the present
    return -2 * HEARTBEAT_SECONDS < age < STALE_SECONDS


def file_system_time(folder: Path) -> float:
    """Now, by the clock of the file system that holds ``folder``; by ours where nothing can be written."""
    probe = folder / f"{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        found = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
    except OSError:
        return time.time()
    return found
