"""The files of a run's folder: which are the run's own, and what an earlier session left of them.

Files of other names are not ours: they are never read, changed or deleted. ``adapter`` and ``checkpoints`` may be
symbolic links to folders elsewhere; they are followed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ssm_tune.experiment.run_lock import FAILED_NAME
from ssm_tune.methods.adapter_files import DESCRIPTION, WEIGHTS
from ssm_tune.records.record import RECORD_NAME
from ssm_tune.records.trial import TRIAL_NAME
from ssm_tune.training.checkpoint import FOLDER, Checkpoints
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import remove_temporary_files

STEPS_NAME = "steps.jsonl.gz"
PREDICTIONS_NAME = "predictions.jsonl.gz"
LAST_PREDICTIONS_NAME = "predictions-last.jsonl.gz"
BASE_PREDICTIONS_NAME = "predictions-frozen.jsonl.gz"
ADAPTER_NAME = "adapter"
_FILES = (
    RECORD_NAME,
    TRIAL_NAME,
    FAILED_NAME,
    STEPS_NAME,
    PREDICTIONS_NAME,
    LAST_PREDICTIONS_NAME,
    f"{ADAPTER_NAME}/{WEIGHTS}",
    f"{ADAPTER_NAME}/{DESCRIPTION}",
)
"""All but those that a resumed run needs: checkpoints and the base model's predictions."""


def check_folder(folder: Path) -> None:
    """Raise UserError where something in the folder is in the way of a file or folder that the run will write."""
    for name in (ADAPTER_NAME, FOLDER):
        path = folder / name
        if os.path.lexists(path):
            if not path.is_dir():
                what = "a link to nothing" if path.is_symlink() and not path.exists() else "not a folder"
                raise UserError(f"{path} is {what}, but the run needs a folder of that name: remove it")
            if not os.access(path, os.W_OK | os.X_OK):
                raise UserError(f"{path} is not writable; make it writable, or remove it")
    for name in (*_FILES, BASE_PREDICTIONS_NAME):
        if (folder / name).is_dir():
            raise UserError(f"{folder / name} is a folder, but the run writes a file of that name: move it away")


def clear_folder(folder: Path, keep_base_predictions: bool) -> None:
    """Delete what an earlier session left, but for checkpoints. Raises UserError where something cannot be deleted."""
    names = _FILES if keep_base_predictions else (*_FILES, BASE_PREDICTIONS_NAME)
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot delete {folder / name}: {error.strerror or error}") from error
    remove_temporary_files(folder)
    remove_temporary_files(folder / ADAPTER_NAME)


def delete_checkpoints(checkpoints: Checkpoints, warn: Callable[[str], None]) -> None:
    """Delete the checkpoints of a run that has its record; where that fails, a warning is enough."""
    try:
        checkpoints.delete()
    except UserError as error:
        warn(f"warning: {error}; the run is done and does not need its checkpoints any more")
