"""The frozen model's answers: decoded once per model, data, task and decoding, then kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssm_tune.experiment.run_lock import turn
from ssm_tune.experiment.setup import Prepared
from ssm_tune.records.run_id import digest
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, decode_json, encode_json, read_bytes


def frozen_outputs(
    prepared: Prepared, decode: Callable[[], list[str]], poll: Callable[[], None]
) -> tuple[list[str], bool]:
    """The frozen model's outputs on the report split, and whether they came from the cache.

    ``poll`` is called while another process decodes them, and may raise to end the wait.

    Outputs are kept, not scores, so that a change of a metric needs no decoding. Raises UserError where the
    cache cannot be written or is damaged.
    """
    asked, path = _place(prepared)
    count = len(prepared.dataset.splits[prepared.roles.report])
    if path.exists():
        return _read(path, asked, count), True
    with turn(path, poll):  # cells that begin together want the same answers: one makes them, the others wait
        if path.exists():
            return _read(path, asked, count), True
        outputs = decode()
        atomic_write(path, [encode_json({"asked": asked, "outputs": outputs})])
    return outputs, False


def frozen_path(prepared: Prepared) -> Path:
    """Where the frozen model's answers lie once they are made; cells that share them share the path."""
    return _place(prepared)[1]


def _place(prepared: Prepared) -> tuple[dict[str, Any], Path]:
    asked = {
        "task": prepared.task.name,
        "version": prepared.task.version,
        "split": prepared.roles.report,
        "protocol": prepared.protocol,
        "decode": prepared.decoding,
        "hashes": prepared.hashes,
        "backend": {name: prepared.backend[name] for name in ("device", "scan", "dtype")},
    }
    return asked, Path(prepared.config.output_dir) / "frozen" / f"{digest(asked)[:16]}.json"


def _read(path: Path, asked: dict[str, Any], count: int) -> list[str]:
    try:
        kept = decode_json(read_bytes(path))
        outputs = kept["outputs"]
        good = kept["asked"] == asked and len(outputs) == count
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise UserError(f"{path} is damaged: delete it, and the frozen model is scored again")
    return [str(output) for output in outputs]
