"""What -m asks for: a sweep file's blocks, or the command line's lists, as one list of settings a run.

A file conf/sweep/NAME.yaml holds ``blocks``; a block maps settings to a value or a list of values and stands for all
their combinations. ``"*"`` for a group stands for all its choices; a value that is itself a list is put in a list.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssm_tune.config.choices import CHOICES
from ssm_tune.config.groups import conf_dir, names, read_plan
from ssm_tune.config.mistyped import group_of
from ssm_tune.config.overrides import MOST_VALUES, at_home, on_command_line, values_of
from ssm_tune.utils.errors import UserError, nearest

FILTERED = ("task", "method")
"""Of these a sweep takes no others than its own: a word that it does not have is a mistake."""


@dataclass
class PlannedRun:
    """Settings of one run, and where they come from (of a sweep file). searched: the method's options that a search
    chooses, of one of its trials."""

    overrides: list[str]
    origin: str = ""
    searched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Of a file: by setting, its values as they stand on a command line; where it stands; and as in ``PlannedRun``."""

    settings: dict[str, list[str]]
    origin: str
    searched: tuple[str, ...] = ()


@dataclass
class Sweep:
    """runs: in the order in which they run; hydra: settings of the launcher; files: names of sweep files.

    together: runs whose steps are computed at once, where they differ in seed and numbers alone; None: as many as pay.
    """

    runs: list[PlannedRun] = field(default_factory=list)
    hydra: list[str] = field(default_factory=list)
    on_error: str = "continue"
    together: int | None = 1
    files: list[str] = field(default_factory=list)


def read_sweep(settings: Sequence[str]) -> Sweep:
    """What the settings behind -m stand for. Raises UserError for what cannot be read or is not there."""
    sweep, given = read_settings(settings)
    if sweep.files:
        sweep.runs = _unique([run for name in sweep.files for run in _of_file(name, given)])
    else:
        sweep.runs = [PlannedRun(list(combination)) for combination in _combinations(given)]
    return sweep


def read_settings(settings: Sequence[str], group: str = "sweep") -> tuple[Sweep, dict[str, list[str]]]:
    """A sweep without its runs, and by setting the values of all others. group: what names its files."""
    sweep, given = Sweep(), dict[str, list[str]]()
    for text in map(at_home, settings):
        values = values_of(text)
        key = text.partition("=")[0]
        name = key.lstrip("+~")
        if name == group:
            sweep.files += [value.partition("=")[2] for value in values]
        elif name == "sweep.on_error":
            sweep.on_error = values[0].partition("=")[2]
            if sweep.on_error not in CHOICES[name] or len(values) > 1:
                raise UserError(f"sweep.on_error must be one of {', '.join(CHOICES[name])}, got {sweep.on_error!r}")
        elif name == "sweep.together":
            sweep.together = _together(values)
        elif name.startswith("sweep."):
            raise UserError(f"there is no setting {name!r}: {nearest(name, ['sweep.on_error', 'sweep.together'])}")
        elif name.startswith(("hydra/", "hydra.")):
            sweep.hydra += values
        else:
            given[key] = values
    return sweep, given


def _together(values: Sequence[str]) -> int | None:
    value = values[0].partition("=")[2]
    if value in CHOICES["sweep.together"] and len(values) == 1:
        return {"off": 1, "auto": None}[value]
    if not value.isdecimal() or not 2 <= int(value) <= MOST_VALUES or len(values) > 1:
        raise UserError(f"sweep.together must be off, auto or a number of runs from 2, got {','.join(values)[15:]!r}")
    return int(value)


def _of_file(name: str, given: dict[str, list[str]]) -> list[PlannedRun]:
    """The runs of a sweep file as the command line narrows or changes them."""
    content, where = read_file("sweep", name)
    return narrowed(read_blocks(content, where), given, where)


def narrowed(blocks: Sequence[Block], given: dict[str, list[str]], where: str) -> list[PlannedRun]:
    """The runs of blocks as the command line narrows or changes them. where: the blocks' file, for errors."""
    narrowing, changing = {}, dict(given)
    for key, values in given.items():
        known = {value for block in blocks for value in block.settings.get(key, [])}
        if key in FILTERED and not set(values) <= known:
            unknown = next(value for value in values if value not in known).partition("=")[2]
            there = sorted({value.partition("=")[2] for value in known})
            raise UserError(f"{where} has no {key} {unknown!r}: {nearest(unknown, there)}")
        if set(values) <= known:
            narrowing[key] = set(values)
            del changing[key]
    runs = []
    for block in blocks:
        chosen = {
            key: [value for value in values if key not in narrowing or value in narrowing[key]]
            for key, values in block.settings.items()
        }
        if not narrowing.keys() <= block.settings.keys():
            continue
        combinations = _combinations(chosen | changing)
        runs += [PlannedRun(list(combination), block.origin, block.searched) for combination in combinations]
    if not runs:
        raise UserError(f"{where} has no run with {' '.join(v for values in given.values() for v in values)}")
    return runs


def read_file(group: str, name: str) -> tuple[Any, str]:
    """What conf/GROUP/NAME.yaml holds, and how errors name the file. Raises UserError where it cannot be read."""
    path = conf_dir() / group / f"{name}.yaml"
    if name not in names(group):
        meant = f"did you mean {of}={name}?" if (of := group_of(name)) else nearest(name, names(group))
        raise UserError(f"there is no {group} {name!r}: {meant}")
    where = f"conf/{group}/{name}.yaml"
    return read_plan(path, where), where


def read_blocks(content: Any, where: str) -> list[Block]:
    """A file's blocks: each of ``blocks`` with what ``settings`` holds, and with each of ``models`` and ``methods``, if
    there are any. Of methods one that names a setting of the model's goes with models that have this value alone.

    Raises UserError for what is invalid.
    """
    blocks = content.get("blocks") if isinstance(content, dict) else None
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) and block for block in blocks):
        raise UserError(f"{where} must hold 'blocks:', a list of settings and their values")
    settings, models, methods = content.get("settings", {}), *(content.get(key, [{}]) for key in ("models", "methods"))
    lists = [settings, *models, *methods] if isinstance(models, list) and isinstance(methods, list) else [None]
    if not all(isinstance(part, dict) for part in lists):
        raise UserError(f"{where}: settings must be a group of settings, and models and methods lists of such")
    found = []
    for number, block in enumerate(blocks, start=1):
        origin = f"{where}, block {number}"
        for model, method in itertools.product(models, methods):
            if all(method.get(key, value) == value for key, value in model.items()):
                found.append(Block(_block(block | settings | model | method, origin), origin))
    return found


def _block(block: dict[Any, Any], where: str) -> dict[str, list[str]]:
    found = {}
    for key, value in block.items():
        values = names(str(key)) if value == "*" else value if isinstance(value, list) else [value]
        if not values:
            raise UserError(f"{where}: {key} has no values")
        if str(key).lstrip("+~").startswith("hydra"):  # could make Hydra import packages
            raise UserError(f"{where}: {key} is a setting of Hydra's: give it on the command line")
        if isinstance(value, dict) or any(isinstance(item, dict) for item in values):
            raise UserError(f"{where}: {key} must be a value or a list; write sections with dots, as train.epochs")
        for item in values if key in ("task", "method", "model", "data") else ():
            if item not in names(str(key)):
                raise UserError(f"{where}: there is no {key} {item!r}: {nearest(str(item), names(str(key)))}")
        found[str(key)] = [f"{key}={on_command_line(item)}" for item in values]
    return found


def _combinations(values: dict[str, list[str]]) -> Iterator[tuple[str, ...]]:
    """One value of each setting, in all combinations. Raises UserError where those are too many."""
    count = math.prod(map(len, values.values()))
    if count > MOST_VALUES:
        raise UserError(f"{count:,} runs in one sweep are more than {MOST_VALUES:,}: split it")
    return itertools.product(*values.values())


def _unique(runs: list[PlannedRun]) -> list[PlannedRun]:
    """Each once: two blocks, or two sweeps, may share runs."""
    return list({frozenset(run.overrides): run for run in reversed(runs)}.values())[::-1]
