"""Reading and writing record.json, which says that a run is finished (standard library only).

It is written last and whole (utils/files.py), so a folder that has one holds a finished run.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ssm_tune.records.schema import Record, validate
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, decode_json, encode_json, finite, read_bytes

T = TypeVar("T")

RECORD_NAME = "record.json"


def write_record(folder: Path | str, record: Record) -> Path:
    """Validates and writes ``folder``/record.json; returns its path.

    Raises:
        ValueError: the record does not keep the schema (a fault of the program, not of its user).
        UserError: the file cannot be written.
    """
    kept = validate(finite(record))
    return atomic_write(Path(folder) / RECORD_NAME, [encode_json(kept, indent=2), b"\n"])


def read_record(path: Path | str) -> Record:
    """The record at ``path``, a record file or its run folder.

    Raises:
        UserError: missing, truncated, not a record, schema too new, or a field missing or of the wrong type.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RECORD_NAME
        if not path.exists():
            raise UserError(f"{path.parent} holds no {RECORD_NAME}: the run did not finish, or is not a run folder")
    try:
        record = decode_json(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is truncated or not JSON ({error}): run this run again with force=true") from error
    try:
        return validate(record)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def find_records(results: Path | str) -> tuple[list[tuple[Path, Record]], list[str]]:
    """All (path, record) under ``results``/runs in path order, and one warning for each damaged record.

    A run folder without a record is a run that has not finished; it is neither.
    """
    return find(Path(results) / "runs", RECORD_NAME, read_record)


def find(folder: Path, name: str, read: Callable[[Path], T]) -> tuple[list[tuple[Path, T]], list[str]]:
    """What ``read`` makes of every file of that name under ``folder``, in path order, and one warning for each that it
    raises UserError on."""
    found, warnings = [], []
    for path in sorted(folder.rglob(name)):
        try:
            found.append((path, read(path)))
        except UserError as error:
            warnings.append(str(error))
    return found, warnings


def why_diverged(record: Record) -> str:
    """What a diverged run's notes say of it; they may tell of other things before."""
    return next((note for note in record["notes"] if note.startswith("diverged")), "diverged")


def rows_path(folder: Path, name: str) -> Path:
    """Where a run folder keeps ``name`` ("steps", "predictions" ...): compressed, or plain as older runs wrote it."""
    packed, plain = folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl"
    return plain if plain.exists() and not packed.exists() else packed


def references_sha256(references: Sequence[str]) -> str:
    """sha256 (hex) of one example's references, their order and number included."""
    return hashlib.sha256(json.dumps(list(references), ensure_ascii=True).encode("ascii")).hexdigest()
