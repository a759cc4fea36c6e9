"""A cell's identity: what determines its result, hashed into the name of its folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssm_tune.errors import UserError


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def folder_name(cell: dict[str, Any], key: str) -> str:
    """A readable name, safe on every file system, with the first 8 digits of ``key``."""
    options = "".join(f"-{name}={value}" for name, value in sorted(cell["method_options"].items()))
    name = f"{cell['data']}-{cell['model']}-{cell['method']}{options}-{cell['protocol']}-s{cell['seed']}"
    return f"{re.sub(r'[^A-Za-z0-9=._-]+', '_', name)[:120]}-{key[:8]}"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a cell's folder against other processes of this machine; a process that dies lets go of it.

    Raises UserError where another process runs the cell, or the folder cannot be written.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another folder with output_dir=DIR"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is running this cell ({folder})") from error
        yield  # the file stays: taking it away would let two processes hold two files of one name
    finally:
        os.close(descriptor)
