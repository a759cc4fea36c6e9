"""The command line that makes a record's run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssm_tune.config.groups import COMMON, names
from ssm_tune.records.run_id import EXECUTION
from ssm_tune.records.schema import Record
from ssm_tune.utils.errors import UserError, first_line

SOURCES = {"folder": "local", "random": "random", "embedded": "tiny"}
"""The choice of conf/model that takes a model of such a source, where none has the model's own name."""
FILLED_IN = ("revision", "tokenizer_revision", "tokenizer", "dtype", "name")
"""Settings of a model that a run fills in where nothing was asked for."""


def command_of(record: Record, seeds: Sequence[int] = ()) -> str:
    """One line for a shell. Where the data or the model lay in a folder, that folder stands in it. seeds: several.

    Raises UserError where the record's settings are none that this version takes.
    """
    from ssm_tune.config.overrides import shell_word

    words = overrides_of(record)
    if len(seeds) > 1:
        words = ["-m", *(word for word in words if not word.startswith("seed=")), f"seed={','.join(map(str, seeds))}"]
    return " ".join(["ssm-tune", *map(shell_word, words)])


def command_or_reason(record: Record, seeds: Sequence[int] = ()) -> str:
    """The same, or why there is none."""
    try:
        return command_of(record, seeds)
    except UserError as error:
        return f"(not known: {error})"


def overrides_of(record: Record) -> list[str]:
    """The settings that ask for the record's run: names first, then what is not the default.

    Raises UserError as ``command_of`` does.
    """
    try:
        return _overrides(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the record's config is damaged or of another version ({first_line(error)})") from error


def _overrides(record: Record) -> list[str]:
    from dataclasses import asdict

    from ssm_tune.config.compose import compose
    from ssm_tune.config.overrides import on_command_line

    run, config = record["cell"], record["config"]
    model, data = config["model"], config["data"]
    named = model["name"] in names("model") and model["source"] != "folder"
    words = [
        f"method={run['method']}",
        f"task={run['task']}",
        f"model={model['name'] if named else SOURCES.get(model['source'], 'local')}",
        f"data={data['source']}",
    ]
    place = {"path": model["path"], "name": model["name"]} if model["source"] == "folder" else {}
    words += [f"model.{key}={on_command_line(value)}" for key, value in place.items()]
    words += [f"data.{key}={on_command_line(data[key])}" for key in ("path", "check", "name") if _given(data, key)]
    words += [f"protocol={run['protocol']}", f"seed={run['seed']}"]
    usual: dict[str, Any] = asdict(compose(words))

    def unasked(section: str) -> tuple[str, ...]:
        beside = {"method": COMMON, "model": (*place, *FILLED_IN), "splits": _usual_splits(record)}
        return (*beside.get(section, ()), *EXECUTION.get(section, ()))

    for section in ("method", "model", "splits", "train", "decode"):
        for key, value in (config.get(section) or {}).items():
            if value is not None and key not in unasked(section) and usual[section].get(key, value) != value:
                words.append(f"{section}.{key}={on_command_line(value)}")
    return words


def _given(data: dict[str, Any], key: str) -> bool:
    usual = {"path": None, "check": "counts", "name": None}
    return data.get(key) not in (None, usual[key])


def _usual_splits(record: Record) -> tuple[str, ...]:
    """The settings of splits that say no more than the protocol does: it holds a selection split out where it must."""
    roles = (record["splits"]["selection"], record["splits"]["report"])
    usual = record["cell"]["protocol"] == "standard" and roles in (("val", "test"), ("carved", "val"))
    return ("selection", "report") if usual else ()
