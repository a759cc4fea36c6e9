"""What a trial of a search leaves: trial.json, its schema, reading and writing it (standard library only).

A trial trains with one learning rate and is scored on the selection split alone. It lies below trials/, apart from the
runs, and is no record: nothing that reads results takes it for one.
"""

from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from ssm_tune.records.record import find
from ssm_tune.records.schema import (
    Backend,
    Cell,
    Epoch,
    Hashes,
    LearningRate,
    Parameters,
    Seconds,
    Splits,
    check_fields,
)
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, decode_json, encode_json, finite, read_bytes

TRIAL_SCHEMA = 1
TRIAL_NAME = "trial.json"


class Best(TypedDict):
    """The evaluation with the best primary metric."""

    epoch: int
    step: int
    selection: dict[str, float]


class Trial(TypedDict):
    """trial.json. As a record, without any score on ``splits.report``, which the trial never saw."""

    trial: int  # the schema
    status: Literal["completed", "diverged"]
    cell: Cell
    config: dict[str, Any]
    request_hash: NotRequired[str]
    primary_metric: str
    splits: Splits
    examples: int  # of the selection split, as scored
    best: Best | None  # null only where the run diverged before its first score
    epochs: list[Epoch]
    signatures: dict[str, str]
    parameters: Parameters
    learning_rate: LearningRate
    steps: int
    seconds: Seconds
    backend: Backend
    hashes: Hashes
    versions: dict[str, str]
    hardware: dict[str, Any]
    notes: list[str]
    started: str  # ISO 8601
    finished: str


def write_trial(folder: Path, trial: Trial) -> Path:
    """Validates and writes ``folder``/trial.json; returns its path. Raises as ``record.write_record`` does."""
    kept = _validated(finite(trial))
    return atomic_write(folder / TRIAL_NAME, [encode_json(kept, indent=2), b"\n"])


def read_trial(path: Path) -> Trial:
    """The trial in a trial.json. Raises UserError where it is missing or damaged."""
    try:
        return _validated(decode_json(read_bytes(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no whole trial ({error}): delete it, and the search runs it again") from error


def find_trials(results: Path | str) -> tuple[list[tuple[Path, Trial]], list[str]]:
    """All (path, trial) under ``results``/trials in path order, and one warning for each damaged one."""
    return find(Path(results) / "trials", TRIAL_NAME, read_trial)


def _validated(trial: Any) -> Trial:
    """Raises ValueError that names what is invalid."""
    if not isinstance(trial, dict) or trial.get("trial") != TRIAL_SCHEMA:
        raise ValueError(f'no field "trial" with the schema {TRIAL_SCHEMA}')
    check_fields(trial, Trial, "")
    scores = trial["best"]["selection"] if trial["best"] else {}
    if trial["status"] == "completed" and trial["primary_metric"] not in scores:
        raise ValueError(f"missing field best.selection.{trial['primary_metric']}")
    return cast(Trial, trial)
