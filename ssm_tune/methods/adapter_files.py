"""An adapter's two files: what they hold, and whether they are as they were written. Imports no torch.

``adapter.json`` holds the method and its options, the model, and under ``digest`` a sha256 of everything else that the
adapter's results hang on, the bytes of ``adapter.safetensors`` first. Adapters that were written before digests were
have none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.records.record import read_record
from ssm_tune.records.repeat import command_of
from ssm_tune.records.where import is_shipped
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, decode_json, encode_json, read_bytes

WEIGHTS, DESCRIPTION = "adapter.safetensors", "adapter.json"
_NOT_DIGESTED = ("digest", "model")  # where the model lies may change; its own hash says whether it is the right one
_DEEPEST = 20


@dataclass(frozen=True)
class AdapterFiles:
    """description: what adapter.json holds. weights: the bytes of adapter.safetensors. checked: there was a digest."""

    description: dict[str, Any]
    weights: bytes
    checked: bool


def write_adapter(folder: Path, description: dict[str, Any], weights: bytes) -> None:
    """Write both files, the description with the digest last. Raises UserError where a file cannot be written."""
    plain = decode_json(encode_json(description))  # as it is read again
    atomic_write(folder / WEIGHTS, [weights])
    atomic_write(folder / DESCRIPTION, [encode_json(plain | {"digest": _digest(plain, weights)}, indent=2), b"\n"])


def read_adapter_files(folder: Path) -> AdapterFiles:
    """Raises UserError where a file is missing or damaged, or the description names no method."""
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(_why_missing(folder, name))
    file, weights = folder / DESCRIPTION, read_bytes(folder / WEIGHTS)
    try:
        description = decode_json(read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"the adapter in {folder} cannot be read: {DESCRIPTION} is not JSON ({error})") from error
    if not isinstance(description, dict) or not isinstance(description.get("method"), dict):
        raise UserError(f"{file} is no adapter's description: it names no method")
    if _depth(description) > _DEEPEST:
        raise UserError(f"{file} is no adapter's description: it is nested too deeply")
    expected = description.get("digest")
    if expected is not None and expected != _digest(description, weights):
        raise UserError(
            f"the adapter in {folder} is damaged, or was edited: its digest does not fit; copy it again from where it "
            "was trained, or train it again"
        )
    return AdapterFiles(description, weights, checked=expected is not None)


def _why_missing(folder: Path, name: str) -> str:
    """What is wrong with a folder that lacks a file of an adapter; of a run's folder also how to make the run again."""
    missing = f"{folder} is no adapter: {name} is missing"
    run = folder.parent if folder.name == "adapter" else folder
    try:
        record = read_record(run)
        again = f"make the run again: {command_of(record)}"
    except UserError:  # no run's folder, or one of another version
        return missing
    if is_shipped(run):
        return f"{folder} holds no {name}: the records that come with ssm-tune carry no weights; {again}"
    return f"{folder} holds a record and no {name}: its adapter was moved or deleted; {again} force=true"


def _digest(description: dict[str, Any], weights: bytes) -> str:
    digested = {key: value for key, value in sorted(description.items()) if key not in _NOT_DIGESTED}
    return hashlib.sha256(hashlib.sha256(weights).digest() + _canonical(digested)).hexdigest()


def _canonical(value: Any) -> bytes:
    """JSON with sorted keys at every level."""
    return encode_json(_sorted(value))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _depth(value: Any) -> int:
    """How deep lists and objects are nested; without recursion."""
    deepest, level = 0, [value]
    while level := [item for value in level for item in _items(value)]:
        deepest += 1
        if deepest > _DEEPEST:
            break
    return deepest


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
