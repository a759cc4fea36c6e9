"""What became of cells: their records and claims under a results folder, found without torch, data or models.

A folder's name ends in a hash of contents, which is not known before data and model are loaded. So a cell is matched by
what was asked for: its record holds the configuration that it ran with.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.config.schema import Config
from ssm_tune.config.tuned import of_cell
from ssm_tune.experiment.run_lock import CLAIMS_NAME, Attempt, alive, last_attempt
from ssm_tune.records.record import RECORD_NAME, find_records, why_diverged
from ssm_tune.records.run_id import EXECUTION, asked_key
from ssm_tune.records.schema import Record
from ssm_tune.records.trial import TRIAL_NAME, find_trials
from ssm_tune.tasks.base import data_name, load_task, published_data
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import decode_json, read_bytes

STATUSES = ("done", "diverged", "running", "stale", "stopped", "failed", "missing")
UNFIXED = {"revision", "tokenizer_revision", "dtype", "name"}
"""Settings of a model that a run fills in where nothing was asked for."""


@dataclass(frozen=True)
class State:
    """One cell's state.

    status: one of STATUSES. detail: the error, or who holds it. seconds: spent on it so far. folder: where it is.
    record: its record, or of a trial its trial.
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
        """The state of the cell that ``config`` describes."""
        asked = (config.task["name"], config.method["name"], config.seed)
        for path, record in self.records.get(asked, []):
            if ran_as_asked(config, record) and (not config.frozen or record["metrics"]["frozen"]):
                status = "done" if record["status"] == "completed" else "diverged"
                detail = "" if status == "done" else why_diverged(record)
                return State(status, detail, record["seconds"]["total"], path.parent, record)
        key = asked_key(config)
        if key not in self.attempts:
            return State("missing")
        return state_of(self.attempts[key], self.spent[key])

    def folders(self) -> list[tuple[str, State]]:
        """Every cell folder, by its path under runs/, with its state."""
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
    """What the last attempt at a cell without a record says."""
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


def ran_as_asked(config: Config, record: Record) -> bool:
    """Whether the record's run is the one that ``config`` asks for. Files' contents are not looked at."""
    ran, cell = record["config"], record["cell"]
    data = dataclasses.asdict(config.data)
    protocol = config.protocol
    if protocol == "auto":
        protocol = "paper" if published_data(data) else "standard"
    if cell["protocol"] != protocol or cell["data"] != data_name(data, cell["task"]):
        return False
    tables, path = config.tuned, (cell["model"], cell["task"], config.method)
    train, decode = (
        {key: value for key, value in dataclasses.asdict(section).items() if key not in EXECUTION[name]}
        for name, section in (("train", config.train), ("decode", config.decode))
    )
    if train["learning_rate"] is None:
        rate = of_cell(tables["learning_rate"], *path)
        train["learning_rate"] = config.method["learning_rate"] if rate is None else rate
    train["batch_size"] = train["batch_size"] or of_cell(tables["batch_size"], *path) or ran["train"]["batch_size"]
    if train["adapter_dtype"] == "auto":
        del train["adapter_dtype"]
    if train["evaluate_every"] != ran["train"].get("evaluate_every", 1):
        return False
    model = {key: value for key, value in config.model.items() if key not in UNFIXED or value not in (None, "auto")}
    # what goes by a name is the same wherever it lies
    if config.model["source"] == "folder" and config.model["name"] is not None:
        del model["path"]
    if data["name"] is not None or published_data(data):
        del data["path"]
    sections = {"data": data, "train": train, "model": model, "decode": decode, "method": config.method,
                "task": config.task}  # fmt: skip
    if not all(_within(section, ran.get(name, {})) for name, section in sections.items()):
        return False
    if config.backend != "auto" and record["backend"]["scan"] != config.backend:
        return False
    return _splits_as_asked(config, protocol, record)


def _splits_as_asked(config: Config, protocol: str, record: Record) -> bool:
    asked, splits = config.splits, record["splits"]
    if protocol == "paper":
        roles = load_task(config.task).published_roles()
        usual = [(roles.selection, roles.report)]
    else:
        usual = [("val", "test"), ("carved", "val")]
    if record["config"].get("splits", {}).get("selection_examples") != asked.selection_examples:
        return False
    here = (splits["selection"], splits["report"])
    return any((asked.selection or selection, asked.report or report) == here for selection, report in usual)


def _within(asked: dict[str, Any], ran: dict[str, Any]) -> bool:
    """Whether all that was asked for was run so; what an older record does not know does not count."""
    return all(key not in ran or ran[key] == value for key, value in asked.items())


def record_path(state: State) -> Path:
    assert state.folder is not None
    return state.folder / (TRIAL_NAME if "trial" in state.record else RECORD_NAME)
