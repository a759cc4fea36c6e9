"""Who runs a cell: claims that hold between processes and hosts that share a file system.

Each attempt at a cell is a numbered file in ``.claims/`` beside the cell's folder, and the highest number has the cell.
An attempt begins by making the next number, with link(2), which succeeds for one process alone on local and network
file systems; it ends by writing into the file how it went. Numbers only grow and files are never taken away, so a late
look at an old state cannot give a cell to two processes; and the files tell what became of each attempt.

An attempt without an end is alive while its process is (same machine: pid and start time) or its heartbeat is recent
(another machine: the file's mtime against the file system's own clock, whatever the hosts' clocks say). Else it is
stale, and the next number may be made.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.utils.errors import Stopped, UserError, first_line
from ssm_tune.utils.files import atomic_write, decode_json, encode_json
from ssm_tune.utils.process import now, start_time_of, this_process

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 600.0
"""A claim of another machine is stale when its heartbeat is older than this."""
TURN_SECONDS = 0.5
FAILED_NAME = "failed.json"
CLAIMS_NAME = ".claims"


@dataclass
class Asked:
    """What was asked for, noted in claims: the request's key and its settings in words. claims: where, once known."""

    key: str
    label: str
    claims: Path | None = None

    def said(self) -> dict[str, str]:
        return {"asked": self.key, "label": self.label}


ASKED: ContextVar[Asked | None] = ContextVar("ASKED", default=None)


class Held(UserError):
    """Another process runs this cell now."""


@dataclass(frozen=True)
class Attempt:
    """One numbered file. ``said``: its content; {} where it cannot be read. ``beat``: its mtime."""

    path: Path
    said: dict[str, Any]
    beat: float

    @property
    def number(self) -> int:
        return int(self.path.stem)

    @property
    def ended(self) -> bool:
        return self.said.get("outcome") is not None

    def who(self) -> str:
        """The holder in words."""
        job = f", SLURM job {self.said['job']}" if self.said.get("job") else ""
        said = self.said
        return f"{said.get('host', 'unknown host')}, pid {said.get('pid', '?')}{job}, since {said.get('begun', '?')}"


def claims_of(folder: Path) -> Path:
    """Where the attempts at a cell's folder are."""
    return folder.parent / CLAIMS_NAME / folder.name


def last_attempt(claims: Path) -> Attempt | None:
    """The attempt that has the cell or had it last. Numbers are walked, not listed: a network listing may be old."""
    number = 0
    with suppress(OSError):
        number = max((int(path.stem) for path in claims.glob("[0-9]*.json")), default=0)
    while (claims / f"{number + 1}.json").exists():
        number += 1
    path = claims / f"{number}.json"
    try:
        beat = path.stat().st_mtime
        said = decode_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Attempt(path, {}, path.stat().st_mtime)
    return Attempt(path, said if isinstance(said, dict) else {}, beat)


def alive(attempt: Attempt) -> bool:
    """Whether the attempt's process still runs, as far as can be told from here."""
    if attempt.ended:
        return False
    here, said = this_process(), attempt.said
    if said.get("start") and said.get("machine") == here["machine"]:
        return start_time_of(said["pid"]) == said["start"]
    if said.get("job") and said["job"] == here["job"] and said["restart"] < here["restart"]:
        return False  # this job, before SLURM started it again
    return _clock(attempt.path.parent) - attempt.beat < STALE_SECONDS


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a cell's folder against every other process; write down how it ended.

    A failure leaves failed.json in the folder, which a later success removes. Raises Held where another process runs
    the cell, UserError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    asked, claims = ASKED.get(), claims_of(folder)
    attempt = acquire(claims, f"this cell ({folder})", asked.said() if asked else {})
    if asked:
        asked.claims = claims
    with _holding(attempt, folder):
        yield


@contextmanager
def turn(path: Path, poll: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait until no other process makes the file ``path``, then hold the right to. ``poll`` is called while waiting."""
    while True:
        try:
            attempt = acquire(claims_of(path), str(path))
            break
        except Held:
            poll()
            time.sleep(TURN_SECONDS)
    with _holding(attempt):
        yield


@contextmanager
def _holding(attempt: Attempt, folder: Path | None = None) -> Iterator[None]:
    """Keep an attempt's heart beating, and write its end into it. folder: where a failure is to be left."""
    begun, quiet = time.monotonic(), threading.Event()
    threading.Thread(target=_beat, args=(attempt, quiet), daemon=True).start()
    outcome, line = "done", None
    try:
        yield
    except (Stopped, KeyboardInterrupt, SystemExit) as error:
        outcome, line = "stopped", str(error) or None
        raise
    except BaseException as error:
        outcome, line = "failed", str(error) if isinstance(error, UserError) else first_line(error)
        raise
    finally:
        quiet.set()
        said = {**attempt.said, "outcome": outcome, "error": line, "ended": now(),
                "seconds": round(time.monotonic() - begun, 1)}  # fmt: skip
        with suppress(UserError):  # a full disk: the claim goes stale with the process, and the error is on its way
            if folder is not None:
                _settle(folder, said)
            atomic_write(attempt.path, [encode_json(said)])


def acquire(claims: Path, what: str, notes: dict[str, str] | None = None) -> Attempt:
    """Make the next attempt in the folder ``claims``. Raises Held, and UserError where nothing can be written."""
    said = {**this_process(), **(notes or {}), "begun": now(), "outcome": None}
    try:
        claims.mkdir(parents=True, exist_ok=True)
        while True:
            last = last_attempt(claims)
            if last is not None and not last.ended and alive(last):
                raise Held(f"another process is running {what}: {last.who()}")
            path = claims / f"{last.number + 1 if last else 0}.json"
            if _make(path, encode_json(said)):
                return Attempt(path, said, time.time())
    except OSError as error:
        raise _unwritable(claims.parent.parent, error) from error


def _make(path: Path, content: bytes) -> bool:
    """Create ``path`` with its content in one step; False where it exists."""
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # over NFS the answer to a link that was made may be lost, and the question asked again
            return temporary.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            return _make_without_links(path, content)
        return True
    finally:
        with suppress(OSError):
            temporary.unlink()


def _make_without_links(path: Path, content: bytes) -> bool:
    """On file systems without hard links: as exclusive, but for a moment the file is there and empty."""
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _settle(folder: Path, said: dict[str, Any]) -> None:
    """failed.json: there after a failure, gone after a success; a cell that was stopped keeps what it had."""
    path = folder / FAILED_NAME
    if said["outcome"] == "failed":
        kept = {name: said.get(name) for name in ("error", "host", "pid", "job", "begun", "ended", "label")}
        atomic_write(path, [encode_json(kept, indent=2), b"\n"])
    elif said["outcome"] == "done":
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _beat(attempt: Attempt, quiet: threading.Event) -> None:
    """Refresh the mtime, by the file server's clock, until told to be quiet.

    A process that was asleep for long may find that another has taken its cell over: it ends there and then, for what
    it would write next is the other's.
    """
    while not quiet.wait(HEARTBEAT_SECONDS):
        if attempt.path.with_name(f"{attempt.number + 1}.json").exists():
            print("ssm-tune: this process was silent for long and another has taken its cell over", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)
        with suppress(OSError):
            os.utime(attempt.path)


def _clock(folder: Path) -> float:
    """Now, by the clock of the file system that holds ``folder``; by ours where nothing can be written."""
    probe = folder / f"{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return now


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {folder}: {error.strerror or error}; choose another folder with output_dir=DIR")


def note_failure(path: Path, asked: Asked, error: str) -> None:
    """Write down a failure that came before the cell's folder was known."""
    said = {**this_process(), **asked.said(), "begun": now(), "ended": now(), "outcome": "failed", "error": error}
    with suppress(UserError):  # the failure itself is told in any case
        atomic_write(path, [encode_json(said)])
