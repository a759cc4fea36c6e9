"""The status of runs: their records and lock files under a results folder, found without torch, data or models.

A folder's name ends in a hash of contents, which is not known before data and model are loaded. So a run is found by
the hash of what was asked for, which its record holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_tune.experiment.lock_file import LockFile, is_held, newest_lock_file, read_lock_file
from ssm_tune.experiment.run_lock import LOCKS_NAME, Request, write_crash, write_early_failure
from ssm_tune.records.record import RECORD_NAME, find_records, why_diverged
from ssm_tune.records.run_id import label_of, request_hash
from ssm_tune.records.trial import TRIAL_NAME, find_trials
from ssm_tune.sweeps.older_records import ran_as_asked

if TYPE_CHECKING:
    from ssm_tune.config.schema import Config

STATUSES = ("done", "diverged", "running", "stale", "stopped", "failed", "missing")


@dataclass(frozen=True)
class State:
    """One run's status.

    status: one of STATUSES. detail: the error, or which process has it. seconds: spent on it so far. folder: where it
    is. record: its record, or of a trial its trial. crash: how the last attempt's process died, if it did.
    """

    status: str
    detail: str = ""
    seconds: float = 0.0
    folder: Path | None = None
    record: Any = None
    crash: str = ""


class Results:
    """The records and the latest attempts under ``output_dir``, read once; with ``trials`` those of searches."""

    def __init__(self, output_dir: str | Path, trials: bool = False) -> None:
        self.runs = Path(output_dir) / ("trials" if trials else "runs")
        found, self.warnings = find_trials(output_dir) if trials else find_records(output_dir)
        self.records: dict[tuple[str, str, int], list[tuple[Path, Any]]] = {}
        for path, record in found:
            run = record["cell"]
            self.records.setdefault((run["task"], run["method"], run["seed"]), []).append((path, record))
        self.attempts: dict[str, LockFile] = {}
        self.spent: dict[str, float] = {}
        for claims in sorted(self.runs.glob(f"*/{LOCKS_NAME}/*/")):
            self._note(newest_lock_file(claims))
        for path in sorted(self.runs.glob(f"*/{LOCKS_NAME}/unprepared-*.json")):
            self._note(read_lock_file(path))

    def _note(self, attempt: LockFile | None) -> None:
        """Keep the latest attempt at what was asked for."""
        if attempt is None or not (key := attempt.contents.get("asked")):
            return
        known = self.attempts.get(key)
        if known is None or known.heartbeat < attempt.heartbeat:
            self.attempts[key] = attempt
        self.spent[key] = self.spent.get(key, 0.0) + attempt.contents.get("seconds", 0.0)

    def state(self, config: Config) -> State:
        """The status of the run that ``config`` asks for."""
        key = request_hash(config)
        for path, record in self.records.get((config.task["name"], config.method["name"], config.seed), []):
            same = record["request_hash"] == key if "request_hash" in record else ran_as_asked(config, record)
            if same and (not config.frozen or record["metrics"]["frozen"]):
                status = "done" if record["status"] == "completed" else "diverged"
                detail = "" if status == "done" else why_diverged(record)
                return State(status, detail, record["seconds"]["total"], path.parent, record)
        if key not in self.attempts:
            return State("missing")
        return state_of(self.attempts[key], self.spent[key])

    def folders(self) -> list[tuple[str, State]]:
        """Every run folder, by its path under runs/, with its status."""
        states = {}
        for claims in self.runs.glob(f"*/{LOCKS_NAME}/*/"):
            folder = claims.parent.parent / claims.name
            attempt = newest_lock_file(claims)
            if attempt is not None and folder.is_dir():
                states[folder] = state_of(attempt, attempt.contents.get("seconds", 0.0))
        for found in self.records.values():
            for path, record in found:
                status = "done" if record["status"] == "completed" else "diverged"
                states[path.parent] = State(status, "", record["seconds"]["total"], path.parent, record)
        return [(str(folder.relative_to(self.runs)), states[folder]) for folder in sorted(states)]


def state_of(attempt: LockFile, spent: float) -> State:
    """What the last attempt at a run without a record says."""
    contents, locks = attempt.contents, attempt.path.parent
    folder = locks.parent.parent / locks.name
    if not attempt.ended:
        status = "running" if is_held(attempt) else "stale"
        return State(status, attempt.holder(), spent, folder)
    if contents["outcome"] == "done":  # its record is gone, or is another one's
        return State("missing", "", spent)
    return State(contents["outcome"], contents.get("error", ""), spent, folder, crash=contents.get("crash", ""))


def note_crash(overrides: Sequence[str], error: str) -> None:
    """Write down that a run's process has died, for the next sweep to pass it over. error: how, in words."""
    from ssm_tune.config.compose import compose  # Hydra

    config = compose(overrides)
    key = request_hash(config)
    attempt = Results(config.output_dir, config.trial).attempts.get(key)
    if attempt is not None and not attempt.ended:
        if not is_held(attempt):  # by another process, which has taken the run over
            write_crash(attempt, error)
    else:
        write_early_failure(early_failure_path(config), Request(key, label_of(overrides)), error, crash=True)


def early_failure_path(config: Config) -> Path:
    """Where a failure is noted that comes before the run's folder is known."""
    locks = Path(config.output_dir) / config.kept_in / str(config.task["name"]) / LOCKS_NAME
    return locks / f"unprepared-{request_hash(config)[:16]}.json"


def record_path(state: State) -> Path:
    assert state.folder is not None
    return state.folder / (TRIAL_NAME if "trial" in state.record else RECORD_NAME)
