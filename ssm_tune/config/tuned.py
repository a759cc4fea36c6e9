"""Files of conf/tuned: learning rates by model, task and method; as a search writes them, with their origin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_tune.config.variants import of_cell
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write
from ssm_tune.utils.yaml_files import read_yaml

if TYPE_CHECKING:
    from ssm_tune.config.schema import Config

HEAD = """\
# Written by "ssm-tune search": for each run the learning rate whose trials scored best on the selection split, of those
# that tie the one with the lowest training loss. "trials" says of each what was tried ([rate, score] in fractions), in
# how many steps and on what, and what it cost; edge: the best was the smallest or the largest of all that were tried.
# Runs take the rates with tuned={name}.
"""
OFFICIAL_BATCH_SIZE = 4
"""Of training, where a tuned file names no other."""
_NO_TEXT = ("y", "yes", "n", "no", "on", "off", "true", "false", "null")
"""Words that yaml does not read as texts."""
Tables = dict[str, dict[str, dict[str, Any]]]
"""By model, task and method (with the options that are not its defaults)."""


def learning_rate_of(config: Config, model: str) -> tuple[float, str]:
    """The learning rate of a run and where it comes from. model: its name, as records have it."""
    if config.train.learning_rate is not None:
        return config.train.learning_rate, "given"
    rate = of_cell(config.tuned["learning_rate"], model, config.task["name"], config.method)
    if rate is not None:
        return rate, str(config.tuned["source"])
    return config.method["learning_rate"], "the method's default: no tuned rate for this run"


def batch_size_of(config: Config, model: str) -> int:
    """The number of examples a step of a run. model: its name, as records have it."""
    tuned = of_cell(config.tuned["batch_size"], model, config.task["name"], config.method)
    return config.train.batch_size or tuned or OFFICIAL_BATCH_SIZE


@dataclass
class TunedFile:
    """What a search writes. rates: of each run; options: of the method, where a search has chosen some; trials: where
    the choice comes from; adapter_dtype: of the adapters that were tried, None where there is no file yet."""

    rates: Tables = field(default_factory=dict)
    options: Tables = field(default_factory=dict)
    trials: Tables = field(default_factory=dict)
    adapter_dtype: str | None = None


def read_tuned(path: Path) -> TunedFile:
    """A file that a search wrote; empty where there is none.

    Raises UserError where the file is someone's own, which a search would overwrite, or cannot be read.
    """
    if not path.exists():
        return TunedFile()
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("trials"), dict):
        raise UserError(f"{path} was not written by a search and would be lost: name another file with --to FILE")
    rates, options = content.get("learning_rate") or {}, content.get("options") or {}
    trials, dtype = content["trials"], content.get("adapter_dtype")
    tables = _is_table(rates, (int, float)) and _is_table(options, (dict,)) and _is_table(trials, (dict,))
    if not tables or not isinstance(dtype, str | None):
        raise UserError(
            f"{path} is damaged: learning_rate, options and trials must be tables by model, task and method"
        )
    return TunedFile(rates, options, trials, dtype)


def _is_table(table: Any, kinds: tuple[type, ...], depth: int = 3) -> bool:
    """Whether it has texts by model, task and method, and behind them values of these kinds."""
    if depth == 0:
        return isinstance(table, kinds)
    if not isinstance(table, dict):
        return False
    return all(isinstance(key, str) and _is_table(value, kinds, depth - 1) for key, value in table.items())


def write_tuned(path: Path, tuned: TunedFile) -> None:
    """Write the file whole. Raises UserError where it cannot be written."""
    lines = [HEAD.format(name=path.stem), f"source: {path.stem}\n", f"adapter_dtype: {tuned.adapter_dtype}\n"]
    lines += _table("learning_rate", tuned.rates, lambda rate: repr(float(rate)))
    if tuned.options:
        lines += _table("options", tuned.options, json.dumps)
    lines += ["batch_size: {}\n", *_table("trials", tuned.trials, json.dumps)]
    atomic_write(path, ["".join(lines).encode()])


def merge(into: Tables, run: tuple[str, str, str], value: Any) -> None:
    """Put a run's value into a table."""
    model, task, method = run
    into.setdefault(model, {}).setdefault(task, {})[method] = value


def _table(name: str, table: Tables, spelled: Callable[[Any], str]) -> list[str]:
    lines = [f"{name}:\n" if table else f"{name}: {{}}\n"]
    for model, tasks in sorted(table.items()):
        lines.append(f"  {_key(model)}:\n")
        for task, methods in sorted(tasks.items()):
            lines.append(f"    {_key(task)}:\n")
            lines += [f"      {_key(method)}: {spelled(value)}\n" for method, value in sorted(methods.items())]
    return lines


def _key(name: str) -> str:
    return name if name.isidentifier() and name.lower() not in _NO_TEXT else json.dumps(name)
