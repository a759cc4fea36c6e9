"""What a run reads, as the doctor finds it: the hub, the published data, the model."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssm_tune.config.groups import benchmarks, conf_dir
from ssm_tune.utils.files import cache_dir

HUB_SECONDS = 2.0
DEFAULT_RUN, EXAMPLE = "default run", "samsum"
OFFLINE = "model=tiny data=sample"
"""What runs without the hub."""


@dataclass(frozen=True)
class Finding:
    """One line. state: ok, note (a run goes without) or problem (a run would fail); mend: a command, or empty."""

    what: str
    state: Literal["ok", "note", "problem"]
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Asked:
    """The run that is meant. model, task, data: as on a run's command line; None where none is named."""

    model: str | None
    task: str | None
    data: str
    output_dir: Path

    @property
    def hub_needed(self) -> bool:
        """Whether a run like that reads something that comes from the hub."""
        model = self.model not in (None, "tiny", "local")
        return model or (self.task is not None and self.task in benchmarks() and self.data == "hub")


def inputs(asked: Asked) -> list[Finding]:
    """What was fetched, and the hub where something is missing still."""
    kept = _kept()
    missing = list[tuple[str, str]]()
    findings = []
    wanted = [asked.task] if asked.task else benchmarks()
    if asked.data == "hub":
        missing += [(what, f"ssm-tune data fetch {task}") for task in wanted for what in _data_lack(task, kept)]
    missing += [(what, "any run fetches it") for what in _model_lacks(asked.model, kept)]
    answers = hub_answers()
    state: Literal["ok", "note", "problem"] = "ok"
    if not answers:
        state = "problem" if asked.hub_needed and missing else "note"
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    found = f"{address} {'answers' if answers else 'does not answer'}"
    mend = "" if answers else f"export HF_ENDPOINT=URL of a mirror, or {OFFLINE}"
    findings.append(Finding("hub", state, found, mend))
    for what, mend in missing if asked.task or asked.model else []:
        findings.append(Finding(what, "note" if answers else "problem", "not fetched yet", mend))
    if not asked.task and not asked.model:
        found = f"{len(wanted) - len(missing)} of {len(wanted)} tasks fetched"
        findings.append(
            Finding("published data", "note" if missing else "ok", found, "ssm-tune data fetch all" if missing else "")
        )
        if not answers:
            findings.append(_default_run(kept))
    return findings


def _default_run(kept: Collection[str]) -> Finding:
    """Whether some task can run as it is by default, where the hub does not answer."""
    lacks = {task: [*_model_lacks(default_model(task), kept), *_data_lack(task, kept)] for task in benchmarks()}
    ready = [task for task, lack in lacks.items() if not lack]
    if ready:
        return Finding(DEFAULT_RUN, "ok", f"data and model are here for {', '.join(ready)}")
    lack = ", ".join(lacks[EXAMPLE])
    return Finding(DEFAULT_RUN, "note", f"task={EXAMPLE} lacks {lack}, and the hub is out of reach", OFFLINE)


def default_model(task: str) -> str:
    """The model that a task names in its yaml, else that of all."""
    loaded = [_section("task", task), _section("", "config")]
    for entry in (entry for section in loaded for entry in section.get("defaults", []) if isinstance(entry, dict)):
        for key, name in entry.items():
            if str(key).rpartition("/")[2] == "model" and not str(key).startswith("override hydra"):
                return str(name)
    return "tiny"


def _kept() -> set[str]:
    """What was fetched from the hub, as its cache here names it."""
    return {path.name.rsplit("--", 1)[0] for path in (cache_dir() / "hub").glob("*.json")}


def _data_lack(task: str, kept: Collection[str]) -> list[str]:
    """A task's data, where they come from the hub and are not here."""
    hub = _section("task", task)["task"].get("hub")
    return [f"data of {task}"] if hub and f"dataset--{hub.replace('/', '--')}" not in kept else []


def _model_lacks(model: str | None, kept: Collection[str]) -> list[str]:
    """What of a model comes from the hub and is not here."""
    if model in (None, "tiny", "local"):
        return []
    section = _section("model", str(model))
    names = {what: section.get(key) for what, key in (("model", "path"), ("tokenizer", "tokenizer"))}
    return [
        f"{what} {name}" for what, name in names.items() if name and f"model--{name.replace('/', '--')}" not in kept
    ]


def _section(group: str, name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{name}.yaml"))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def hub_answers() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    try:
        with urllib.request.urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=HUB_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
