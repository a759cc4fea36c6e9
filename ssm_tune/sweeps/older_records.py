"""Whether a record without a request hash, as older versions wrote them, is of the run that is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ssm_tune.config.groups import model_label
from ssm_tune.config.protocol import published_data, resolved_protocol
from ssm_tune.config.tuned import batch_size_of, learning_rate_of
from ssm_tune.records.run_id import EXECUTION
from ssm_tune.records.schema import Record
from ssm_tune.tasks.base import data_name, load_task

if TYPE_CHECKING:
    from ssm_tune.config.schema import Config

FILLED_IN = {"revision", "tokenizer_revision", "dtype", "name"}
"""Settings of a model that a run fills in where nothing was asked for."""


def ran_as_asked(config: Config, record: Record) -> bool:
    """Whether the record's configuration is the one that ``config`` asks for. Files' contents are not looked at."""
    ran, run, data = record["config"], record["cell"], dataclasses.asdict(config.data)
    protocol = resolved_protocol(config.protocol, data)
    if run["protocol"] != protocol or run["data"] != data_name(data, run["task"]):
        return False
    if config.train.evaluate_every != ran["train"].get("evaluate_every", 1):
        return False
    if config.backend != "auto" and record["backend"]["scan"] != config.backend:
        return False
    if data["name"] is not None or published_data(data):  # what goes by a name is the same wherever it lies
        del data["path"]
    if not all(_within(asked, ran.get(name, {})) for name, asked in {**_asked(config), "data": data}.items()):
        return False
    return _splits_as_asked(config, protocol, record)


def _asked(config: Config) -> dict[str, dict[str, Any]]:
    """The sections of the configuration as far as they are fixed before the run."""
    train, decode = (
        {key: value for key, value in dataclasses.asdict(section).items() if key not in EXECUTION[name]}
        for name, section in (("train", config.train), ("decode", config.decode))
    )
    label = model_label(config.model)
    train["learning_rate"] = learning_rate_of(config, label)[0]
    train["batch_size"] = batch_size_of(config, label)
    if train["adapter_dtype"] == "auto":
        del train["adapter_dtype"]
    model = {key: value for key, value in config.model.items() if key not in FILLED_IN or value not in (None, "auto")}
    if config.model["source"] == "folder" and config.model["name"] is not None:
        del model["path"]
    return {"train": train, "decode": decode, "model": model, "method": config.method, "task": config.task}


def _splits_as_asked(config: Config, protocol: str, record: Record) -> bool:
    asked, splits = config.splits, record["splits"]
    if protocol == "paper":
        roles = load_task(config.task).published_roles()
        usual = [(roles.selection, roles.report)]
    else:
        usual = [("val", "test"), ("carved", "val")]
    ran = record["config"].get("splits", {})
    if (ran.get("selection_examples"), ran.get("limit")) != (asked.selection_examples, asked.limit):
        return False
    here = (splits["selection"], splits["report"])
    return any((asked.selection or selection, asked.report or report) == here for selection, report in usual)


def _within(asked: dict[str, Any], ran: dict[str, Any]) -> bool:
    """Whether all that was asked for was run so; what an older record does not know does not count."""
    return all(key not in ran or ran[key] == value for key, value in asked.items())
