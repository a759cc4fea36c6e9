"""Reading and writing files whole: complete or absent, UTF-8 and strict JSON (standard library only).

A file is written beside its place, flushed to the disk and renamed. JSON has no NaN and no infinity; they are
written as null. A name that ends in .gz is compressed: the same rows give the same bytes, on any day.
"""

import codecs
import errno
import gzip
import io
import json
import math
import os
import re
import time
import uuid
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssm_tune.utils.errors import UserError

_TEMPORARY = re.compile(r"(?:\..*\.)?[0-9a-f]{32}\.tmp", re.DOTALL)


def atomic_write(path: Path, chunks: Iterable[bytes | memoryview]) -> Path:
    """Writes ``path`` (and its folder, if need be) so that it is complete or, on any failure, untouched.

    Raises:
        UserError: disk full, folder not writable and the like, with the path and the system's words.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:  # Ctrl-C too must leave nothing behind
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {_cause(error)}") from error
        raise
    return path


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut, where the system lets a folder be synchronised."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems have no such operation; the file itself is on the disk all the same
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _cause(error: OSError) -> str:
    words = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{words}; free some space or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return f"{words}; choose a folder that you may write to"
    return words


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def require_writable(folder: Path, setting: str) -> None:
    """Make the folder. Raises UserError where it cannot be made or written; setting: what names it, as output_dir."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{setting}: cannot make {folder} ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{setting}: {folder} is not writable; choose another with {setting}=DIR")


def remove_temporary_files(folder: Path, older_than: float = 0.0) -> None:
    """Delete what ``atomic_write`` left in a folder when its process was killed.

    older_than: seconds since the file was last written; 0 where no other process can be writing there.
    """
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime >= older_than:
                    path.unlink()


def encode_json(value: Any, indent: int | None = None) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot hold: escape everything instead
        return json.dumps(value, ensure_ascii=True, allow_nan=False, indent=indent).encode("ascii")


def decode_json(content: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(content.decode("utf-8"), parse_constant=refuse)


def finite(value: Any) -> Any:
    """A copy with null for every float that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes one JSON object a line, all or nothing, compressed if the name ends in .gz; returns the path.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    lines = (encode_json(finite(row)) + b"\n" for row in rows)
    return atomic_write(path, [compressed(lines)] if path.suffix == ".gz" else lines)


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """The objects of a JSON lines file, compressed or not; a byte order mark at its start is left out.

    Raises:
        UserError: missing file; damaged compression; a line that is no JSON object, named by its number.
    """
    path, rows = Path(path), []
    content = read_bytes(path)
    if path.suffix == ".gz":
        content = _decompressed(content, path)
    for number, line in enumerate(io.BytesIO(content.removeprefix(codecs.BOM_UTF8)), start=1):
        try:
            row = decode_json(line)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} line {number} is not UTF-8 (byte {error.start + 1}): save the file as UTF-8"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number} is truncated or not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


ALWAYS_EXPANDED, MOST_EXPANSION = 64 << 20, 20
"""Bounds of a compressed file's content: in bytes whatever the file's size, and in bytes for each of the file's. Our
own files expand five to ten times; others could expand a thousand times and fill the memory."""


def compressed(chunks: Iterable[bytes]) -> bytes:
    """gzip of ``chunks`` in a row, without a name or a time, at one level: equal contents are equal bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        for chunk in chunks:
            file.write(chunk)
    return packed.getvalue()


def _decompressed(content: bytes, path: Path) -> bytes:
    limit = ALWAYS_EXPANDED + MOST_EXPANSION * len(content)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            found = file.read(limit + 1)
        if len(found) <= limit:
            return found
        raise UserError(f"{path} expands to more than {limit >> 20} MiB: it is not a file that ssm-tune wrote")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is cut off or not gzip ({error}): run it again with force=true") from error


def user_path(path: str | Path) -> Path:
    """A path as a user gives it, ``~`` being a home folder. Raises UserError where it cannot be a path."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home folder") from error
    if "\0" in str(expanded):
        raise UserError(f"{str(path)!r} is not a path: it holds a NUL")
    return expanded


def cache_dir() -> Path:
    """The folder of what can be made again: SSM_TUNE_CACHE, else ``ssm-tune`` in the user's cache folder."""
    if chosen := os.environ.get("SSM_TUNE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ssm-tune"
