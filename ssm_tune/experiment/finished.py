"""A finished adapter, in a run's folder or one of its own, and the task that it answers. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.config.compose import compose
from ssm_tune.config.groups import benchmarks, names
from ssm_tune.config.overrides import on_command_line, parsed
from ssm_tune.config.protocol import resolved_protocol
from ssm_tune.config.schema import Config, DataConfig
from ssm_tune.methods.adapter_files import DESCRIPTION, read_adapter_files
from ssm_tune.records.record import RECORD_NAME, read_record
from ssm_tune.records.schema import Record
from ssm_tune.tasks.base import Task, load_task
from ssm_tune.utils.errors import UserError, nearest

PEFT = "adapter_config.json"


@dataclass(frozen=True)
class FinishedAdapter:
    """folder: of the adapter's files. description: what adapter.json holds; empty for peft's. record: its run's."""

    folder: Path
    description: dict[str, Any]
    record: Record | None


@dataclass(frozen=True)
class AskedTask:
    """A task to answer. fields: what its prompts are made of. data: the section to load, None where none is known.

    split: the one that the run reported, where data are the run's own.
    """

    task: Task
    protocol: str
    fields: tuple[str, ...]
    data: dict[str, Any] | None
    split: str | None


def read_finished(path: Path) -> FinishedAdapter:
    """The adapter of a run's folder (or its record.json), or of a folder that holds one.

    Raises UserError where there is none, or it is damaged.
    """
    run = path.parent if path.name == RECORD_NAME else path
    has_record = (run / RECORD_NAME).is_file()
    folder = run / "adapter" if (run / "adapter").is_dir() else run
    if not has_record and folder == run and (run.parent / RECORD_NAME).is_file() and run.name == "adapter":
        run, has_record = run.parent, True
    record = read_record(run) if has_record else None
    if (folder / PEFT).is_file():
        return FinishedAdapter(folder, {}, record)
    return FinishedAdapter(folder, read_adapter_files(folder).description, record)


def model_words(name: str | None) -> list[str]:
    """``--model NAME`` as settings: a name of conf/model, or a checkpoint's folder. Raises UserError."""
    if name is None:
        return []
    if name in names("model"):
        return [f"model={name}"]
    if Path(name).expanduser().is_dir():
        return ["model=local", f"model.path={on_command_line(name)}"]
    raise UserError(f"--model {name}: no folder, and no model of that name: {nearest(name, names('model'))}")


def composed(finished: FinishedAdapter, settings: Sequence[str], allowed: Sequence[str]) -> tuple[Config, set[str]]:
    """The configuration of the user's settings, and the keys that they name.

    allowed: the settings that the command takes. Raises UserError for others.
    """
    keys = {parsed(setting).get_key_element().lstrip("+") for setting in settings}
    for key in sorted(keys):
        if key.split(".")[0] not in allowed:
            raise UserError(f"{key}: settings of {', '.join(allowed)} are taken here")
        if key.startswith("model.") and "model" not in keys:
            raise UserError(f"{key}: name the model as well, as model=local model.path=DIR")
    own = _own(finished) or {}
    named = finished.description.get("task")
    if not own and "task" not in keys and named in names("task"):  # of an older version, without its run's folder
        settings, keys = [f"task={named}", *settings], {"task", *keys}
    words = [] if "task" in keys else [f"task={own['task']['name'] if own else 'samsum'}"]
    chosen = next((setting.partition("=")[2] for setting in settings if setting.startswith("task=")), None)
    name = chosen or (own["task"]["name"] if own else "samsum")
    if not any(key == "data" or key.startswith("data.") for key in keys):
        words.append("data=sample" if name in benchmarks() else "data.path=none")  # none are read
    if name not in names("task"):
        raise UserError(f"there is no task {name!r}: {nearest(name, names('task'))}")
    return compose(["method=full", *words, *settings]), keys


def asked_task(finished: FinishedAdapter, config: Config, keys: set[str]) -> AskedTask | None:
    """The task of the settings, else the adapter's own; None where neither names one.

    The adapter's own task has its own settings, but for those that the user names. Raises UserError.
    """
    own = _own(finished)
    given_data = any(key == "data" or key.startswith("data.") for key in keys)
    is_own = own is not None and ("task" not in keys or config.task["name"] == own["task"].get("name"))
    if own is None and "task" not in keys:
        return None
    section = config.task
    if own is not None and is_own:
        changed = {key.split(".")[1] for key in keys if key.startswith("task.")}
        section = own["task"] | {name: config.task[name] for name in changed}
    task = load_task(section)
    data = dataclasses.asdict(config.data) if given_data else None
    split = None
    if data is None and is_own and finished.record is not None:
        data = dataclasses.asdict(DataConfig(**finished.record["config"]["data"]))
        split = finished.record["splits"]["report"]
    if "protocol" in keys or own is None or not is_own:
        protocol = resolved_protocol(config.protocol, data or dataclasses.asdict(config.data))
    else:
        protocol = own["protocol"]
    fields = tuple(own["fields"]) if own is not None and is_own and "fields" in own else task.fields
    return AskedTask(task, protocol, fields, data, split)


def _own(finished: FinishedAdapter) -> dict[str, Any] | None:
    """The adapter's own prompt: the task's section, the protocol and, but for older adapters, the fields.

    Raises UserError where the file does not hold what a run wrote.
    """
    own = finished.description.get("prompt")
    if own is None and finished.record is not None:  # of an older version
        config = finished.record["config"]
        own = {"task": config.get("task"), "protocol": config.get("protocol")}
    if own is None:
        return None
    valid = isinstance(own, dict) and isinstance(own.get("task"), dict) and own.get("protocol") in ("paper", "standard")
    fields = own.get("fields", []) if isinstance(own, dict) else None
    if not valid or not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        raise UserError(f"{finished.folder / DESCRIPTION} lacks the task or its protocol: it was not written by a run")
    found: dict[str, Any] = own
    return found
