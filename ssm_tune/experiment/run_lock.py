"""Run locks: each run is done by one process at a time, also across hosts that share a file system.

Attempts at a run are numbered files in ``.claims/`` beside the run's folder, and the highest number holds the lock. A
process takes the lock by creating the next number with link(2), which succeeds for one process alone on local and
network file systems; it gives the lock back by writing into the file how the attempt ended. Numbers only grow and files
are never deleted, so a process that acts on an outdated look cannot take a lock that another holds; and the files tell
what became of each attempt.

An attempt without an end holds the lock while its process runs (same machine: pid and start time; the same host before
its last boot: it does not) or its heartbeat is recent (another machine: the file's mtime, compared with the file
system's own clock, whatever the hosts' clocks say). Otherwise the next number may be created.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.experiment.lock_file import (
    HEARTBEAT_SECONDS,
    STALE_SECONDS,
    LockFile,
    is_held,
    newest_lock_file,
)
from ssm_tune.utils.errors import Stopped, UserError, first_line
from ssm_tune.utils.files import atomic_write, encode_json, remove_temporary_files
from ssm_tune.utils.process import now, this_process

POLL_SECONDS = 0.5
FAILED_NAME = "failed.json"
LOCKS_NAME = ".claims"


@dataclass
class Request:
    """The run that was asked for, as lock files name it. key: of its settings; label: these in words."""

    key: str
    label: str
    locked: bool = False
    """whether its run lock was taken: failures are then written there"""

    def contents(self) -> dict[str, str]:
        return {"asked": self.key, "label": self.label}


class Locked(UserError):
    """Another process does this run now."""


def lock_folder(path: Path) -> Path:
    """Where the lock files of a run's folder, or of a file that one process is to make, are."""
    return path.parent / LOCKS_NAME / path.name


@contextmanager
def run_lock(folder: Path, request: Request | None = None) -> Iterator[None]:
    """Hold the lock of a run's folder, and write down how the attempt ended.

    A failure leaves failed.json in the folder, which a later success removes. Raises Locked where another process holds
    the lock, UserError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    lock = acquire(lock_folder(folder), f"this run ({folder})", request.contents() if request else {})
    if request:
        request.locked = True
    with _held(lock, folder):
        yield


@contextmanager
def file_lock(
    path: Path, poll: Callable[[], None] = lambda: None, say: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Wait until no other process makes the file ``path``, then hold the lock to make it.

    poll: called while waiting; may raise to end the wait. say: called with a line that names the process waited for.
    """
    told = ""
    while True:
        try:
            lock = acquire(lock_folder(path), str(path))
            break
        except Locked as error:
            if str(error) != told:
                told = str(error)
                say(f"waiting: {told}")
            poll()
            time.sleep(POLL_SECONDS)
    with _held(lock):
        yield


@contextmanager
def _held(lock: LockFile, folder: Path | None = None) -> Iterator[None]:
    """Refresh a lock's heartbeat, and write the end into it. folder: where a failure is to be left."""
    begun, released = time.monotonic(), threading.Event()
    threading.Thread(target=_beat, args=(lock, released), daemon=True).start()
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
        released.set()
        seconds = round(time.monotonic() - begun, 1)
        contents = {**lock.contents, "outcome": outcome, "error": line, "ended": now(), "seconds": seconds}
        if folder is not None:
            with suppress(UserError):
                _write_failure(folder, contents)
        with suppress(UserError):  # a full disk: the lock goes stale with the process, and the error is on its way
            atomic_write(lock.path, [encode_json(contents)])


def acquire(folder: Path, what: str, notes: dict[str, str] | None = None) -> LockFile:
    """Create the next lock file in ``folder``. Raises Locked, and UserError where nothing can be written."""
    contents = {**this_process(), **(notes or {}), "begun": now(), "outcome": None}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            last = newest_lock_file(folder)
            if last is not None and not last.ended and is_held(last):
                raise Locked(f"another process is running {what}: {last.holder()}")
            path = folder / f"{last.number + 1 if last else 0}.json"
            if _create(path, encode_json(contents)):
                remove_temporary_files(folder)  # of killed processes; another that tries now notices, and repeats
                remove_temporary_files(folder.parent, STALE_SECONDS)
                return LockFile(path, contents, time.time())
    except OSError as error:
        raise _unwritable(folder.parent.parent, error) from error


def _create(path: Path, content: bytes) -> bool:
    """Create ``path`` with its content in one step; False where it exists, or is to be tried again."""
    temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # over NFS the answer to a successful link may be lost, and the request repeated
            return temporary.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            return _create_without_links(path, content)
        return True
    except FileNotFoundError:  # the process that took the lock has cleaned up
        if not path.parent.is_dir():
            raise
        return False
    finally:
        with suppress(OSError):
            temporary.unlink()


def _create_without_links(path: Path, content: bytes) -> bool:
    """On file systems without hard links: as exclusive, but for a moment the file is there and empty."""
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _write_failure(folder: Path, contents: dict[str, Any]) -> None:
    """failed.json: there after a failure, gone after a success; left as it was by a run that was stopped."""
    path = folder / FAILED_NAME
    if contents["outcome"] == "failed":
        kept = {name: contents.get(name) for name in ("error", "host", "pid", "job", "begun", "ended", "label")}
        atomic_write(path, [encode_json(kept, indent=2), b"\n"])
    elif contents["outcome"] == "done":
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _beat(lock: LockFile, released: threading.Event) -> None:
    """Refresh the mtime, by the file server's clock, until the lock is released.

    A process that was suspended for long may find that another has taken its lock: it ends at once, for what it would
    write next belongs to the other.
    """
    while not released.wait(HEARTBEAT_SECONDS):
        if lock.path.with_name(f"{lock.number + 1}.json").exists():
            with suppress(OSError):
                print(
                    "ssm-tune: this process was suspended for long and another has taken over its run", file=sys.stderr
                )
                sys.stderr.flush()
            os._exit(1)
        with suppress(OSError):
            os.utime(lock.path)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {folder}: {error.strerror or error}; choose another folder with output_dir=DIR")


def write_crash(lock: LockFile, error: str) -> None:
    """Write down that the process of an attempt without an end has died. error: how, in words."""
    contents = {**lock.contents, "outcome": "failed", "error": error, "crash": error, "ended": now()}
    with suppress(UserError):
        _write_failure(lock.path.parent.parent.parent / lock.path.parent.name, contents)
        atomic_write(lock.path, [encode_json(contents)])


def write_early_failure(path: Path, request: Request, error: str, crash: bool = False) -> None:
    """Write down a failure that came before the run's folder was known. crash: whether the process died of it."""
    contents = {
        **this_process(),
        **request.contents(),
        "begun": now(),
        "ended": now(),
        "outcome": "failed",
        "error": error,
        **({"crash": error} if crash else {}),
    }
    with suppress(UserError):  # the failure itself is reported in any case
        atomic_write(path, [encode_json(contents)])
