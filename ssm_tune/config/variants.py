"""A method with the options that are not its defaults: its name in conf/tuned, and what stands there for it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ssm_tune.config.groups import changed_options, model_label


def variant(method: dict[str, Any], without: Collection[str] = ()) -> str:
    """A method's name with those of its options that are not the defaults: ``state_offset,rank=4``.

    without: options that are not named, whatever their values.
    """
    changed = changed_options(method)
    named = [f"{key}={spelled(value)}" for key, value in changed.items() if key not in without]
    return ",".join([method["name"], *named])


def spelled(value: Any) -> str:
    """An option's value as it stands in a variant's name."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def of_cell(table: dict[str, Any] | None, model: str, task: str, method: dict[str, Any]) -> Any:
    """What a table of conf/tuned has for a run, else None. method: its section of the configuration.

    A method may stand there with the options that are not its defaults; without them it stands for all of its options.
    """
    found: Any = table
    for name in (model, task):
        found = (found or {}).get(name)
    found = found or {}
    return found.get(variant(method), found.get(method["name"]))


def with_tuned_options(
    method: dict[str, Any], tuned: dict[str, Any], model: dict[str, Any], task: dict[str, Any], given: Collection[str]
) -> dict[str, Any]:
    """The method's section with the options that a search has chosen for the run, but for those in ``given``, which
    were asked for. tuned, model, task: sections of the configuration."""
    if not tuned.get("options"):
        return method
    chosen = of_cell(tuned["options"], model_label(model), task["name"], method) or {}
    return method | {key: value for key, value in chosen.items() if key not in given}
