"""The status of runs: their records and lock files under a results folder, found without torch, data or models.

A folder's name ends in a hash of contents, which is not known before data and model are loaded. So a run is found by
the hash of what was asked for, which its record holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.config.schema import Config
from ssm_tune.experiment.run_lock import CLAIMS_NAME, Attempt, alive, last_attempt
from ssm_tune.records.record import RECORD_NAME, find_records, why_diverged
from ssm_tune.records.run_id import request_hash
from ssm_tune.records.trial import TRIAL_NAME, find_trials
from ssm_tune.sweeps.older_records import ran_as_asked
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import decode_json, read_bytes

STATUSES = ("done", "diverged", "running", "stale", "stopped", "failed", "missing")


@dataclass(frozen=True)
class State:
    """One run's status.

    status: one of STATUSES. detail: the error, or which process has it. seconds: spent on it so far. folder: where it
    is. record: its record, or of a trial its trial.
    """

    status: str
    detail: str = ""
    seconds: float = 0.0
    folder: Path | None = None
    record: Any = None


class Results:
    """The records and the latest attempts under ``output_dir``, read once; with ``trials`` those of searches."""

    def __init__(self, output_dir: str | Path, trials: bool = False) -> None:
        self.runs = Path(output_dir) / ("trials" if trials else "runs")
        found, self.warnings = find_trials(output_dir) if trials else find_records(output_dir)
        self.records: dict[tuple[str, str, int], list[tuple[Path, Any]]] = {}
        for path, record in found:
            cell = record["cell"]
            self.records.setdefault((cell["task"], cell["method"], cell["seed"]), []).append((path, record))
        self.attempts: dict[str, Attempt] = {}
        self.spent: dict[str, float] = {}
        for claims in sorted(self.runs.glob(f"*/{CLAIMS_NAME}/*/")):
            self._note(last_attempt(claims))
        for path in sorted(self.runs.glob(f"*/{CLAIMS_NAME}/unprepared-*.json")):
            self._note(_unprepared(path))

    def _note(self, attempt: Attempt | None) -> None:
        """Keep the latest attempt at what was asked for."""
        if attempt is None or not (key := attempt.said.get("asked")):
            return
        known = self.attempts.get(key)
        if known is None or known.beat < attempt.beat:
            self.attempts[key] = attempt
        self.spent[key] = self.spent.get(key, 0.0) + float(attempt.said.get("seconds") or 0.0)

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
        for claims in self.runs.glob(f"*/{CLAIMS_NAME}/*/"):
            folder = claims.parent.parent / claims.name
            attempt = last_attempt(claims)
            if attempt is not None and folder.is_dir():
                states[folder] = state_of(attempt, float(attempt.said.get("seconds") or 0.0))
        for found in self.records.values():
            for path, record in found:
                status = "done" if record["status"] == "completed" else "diverged"
                states[path.parent] = State(status, "", record["seconds"]["total"], path.parent, record)
        return [(str(folder.relative_to(self.runs)), states[folder]) for folder in sorted(states)]


def state_of(attempt: Attempt, spent: float) -> State:
    """What the last attempt at a run without a record says."""
    said, claims = attempt.said, attempt.path.parent
    folder = claims.parent.parent / claims.name
    if not attempt.ended:
        status = "running" if alive(attempt) else "stale"
        return State(status, attempt.who(), spent, folder)
    outcome, error = str(said["outcome"]), str(said.get("error") or "")
    if outcome == "done":  # its record is gone, or is another one's
        return State("missing", "", spent)
    return State(outcome, error, spent, folder)


def _unprepared(path: Path) -> Attempt | None:
    try:
        return Attempt(path, decode_json(read_bytes(path)), path.stat().st_mtime)
    except (UserError, ValueError, OSError):
        return None


def record_path(state: State) -> Path:
    assert state.folder is not None
    return state.folder / (TRIAL_NAME if "trial" in state.record else RECORD_NAME)
