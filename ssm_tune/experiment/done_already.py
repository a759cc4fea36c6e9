"""A run that is done already, found before PyTorch is imported: a second at most, where setting it up takes many.

The record must be of what is asked for, on these very data, and nothing of the model may have changed since it began.
Where that is not sure, nothing is found here, and the run is set up in full, which knows.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from ssm_tune.config.schema import Config
from ssm_tune.experiment.load_data import LoadedData
from ssm_tune.experiment.shared import file_stamps
from ssm_tune.hub.download import model_commit
from ssm_tune.models.source import folder_at_hand
from ssm_tune.models.tokenizer import load_tokenizer
from ssm_tune.records.record import RECORD_NAME, read_record
from ssm_tune.records.run_id import request_hash
from ssm_tune.records.schema import Record
from ssm_tune.training.distributed import world_size
from ssm_tune.utils.errors import UserError


def finished_run(config: Config, data: LoadedData) -> tuple[Path, Record] | None:
    """The record of this run and its path, if it is surely done and has everything that is asked for."""
    if config.force or config.trial or world_size() > 1:
        return None
    asked, runs = request_hash(config), Path(config.output_dir) / config.kept_in / data.task.name
    try:
        for path in sorted(runs.glob(f"*-s{config.seed}-*/{RECORD_NAME}")):
            record = read_record(path)
            same = record.get("request_hash") == asked and record["hashes"]["data"] == data.dataset.hash
            complete = record["metrics"]["frozen"] or not config.frozen
            if same and complete and _as_it_was(config, record):
                # checkpoints that are left of a run that was killed after its record are deleted where it is set up
                return None if (path.parent / "checkpoints").exists() else (path, record)
    except UserError:  # a damaged record, a hub out of reach: told where it matters
        pass
    return None


def _as_it_was(config: Config, record: Record) -> bool:
    """Whether a run of now would have the record's device, tokenizer and weights."""
    section: Any = config.model
    was: Any = record["config"]["model"]
    if record["backend"]["device"] != (_likely_device() if config.device == "auto" else config.device):
        return False
    if section["source"] == "random":
        return True
    where = Path(section["path"]).expanduser() if section["source"] == "folder" else section["path"]
    folder = folder_at_hand(where)
    if folder is None:
        if model_commit(section["path"], section["revision"]) != was["revision"]:
            return False
    elif section["path"] != was["path"] or not _older(folder, record["started"]):
        return False
    if section["tokenizer"]:
        return load_tokenizer(section["tokenizer"], section["tokenizer_revision"]).hash == record["hashes"]["tokenizer"]
    return True


def _older(folder: Path, started: str) -> bool:
    """Whether no file of the folder was written, or put there, since then."""
    moment = datetime.fromisoformat(started).timestamp()
    paths = [Path(name) for name, *_ in file_stamps(folder)]
    return all(max((status := path.stat()).st_mtime, status.st_ctime) < moment for path in paths)


def _likely_device() -> str:
    """What device=auto stands for, as far as can be told without PyTorch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    there = any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/dxg"))
    return "cuda" if there and not hidden else "cpu"
