"""What a search tries: the ``grid`` of a search file or of the command line, spread over the blocks of its runs.

``grid`` has for each method a list of learning rates, or a group of lists that are all combined: ``learning_rate`` and
options of the method. A method may be named with options, ``"lora,rank=4"``; ``"*"`` stands for every other.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ssm_tune.config.compose import RATE
from ssm_tune.config.groups import method_section, names
from ssm_tune.config.overrides import on_command_line
from ssm_tune.sweeps.sweep_file import Block, read_blocks, read_file
from ssm_tune.utils.errors import UserError, nearest

EVERY = "*"
RATE_NAME = "learning_rate"
"""What the rate is called in a grid."""


@dataclass(frozen=True)
class Entry:
    """A line of the grid. options: settings that a run of the line has; values: by setting those that are tried. All as
    they stand on a command line."""

    name: str
    method: str
    options: frozenset[str]
    values: dict[str, list[str]]

    def fits(self, method: str, options: frozenset[str]) -> bool:
        return self.method in (method, EVERY) and self.options <= options


def from_file(content: Any, where: str, given: dict[str, list[str]]) -> list[Block]:
    """The blocks of a search file, each once for every method, with what it tries. given: ``given_values``, which stand
    in place of the file's own. Raises UserError for what is invalid."""
    grid = content.get("grid") if isinstance(content, dict) else None
    if not isinstance(grid, dict) or not grid:
        raise UserError(f"{where} must hold 'grid:', learning rates by method")
    entries = [_entry(str(name), values, where) for name, values in grid.items()]
    entries = [Entry(one.name, one.method, one.options, one.values | given) for one in entries]
    if "sweep" in content:
        return spread(_of_sweep(content, where), entries, where)
    blocks = []
    for block in read_blocks(content, where):
        if RATE in block.settings or "method" in block.settings:
            raise UserError(f"{block.origin}: methods and their learning rates stand in 'grid:'")
        for entry in entries:
            if entry.method == EVERY:
                raise UserError(f"{where}: grid '*' stands for the methods of a sweep: name it with sweep: NAME")
            own = {"method": [f"method={entry.method}"]} | {one.partition("=")[0]: [one] for one in entry.options}
            blocks += spread([Block(block.settings | own, block.origin)], [entry], where)
    return blocks


def given_values(given: dict[str, list[str]]) -> dict[str, list[str]]:
    """What ``grid.NAME=A,B`` on the command line asks to try, by setting; taken out of ``given``."""
    found = {}
    for key in [key for key in given if key.lstrip("+").partition(".")[0] == "grid"]:
        name = key.lstrip("+").partition(".")[2]
        if not re.fullmatch(r"\w+", name):
            raise UserError(f"{key}: a search chooses learning rates and methods' options: grid.learning_rate=A,B")
        setting = RATE if name == RATE_NAME else f"method.{name}"
        found[setting] = [f"{setting}={value.partition('=')[2]}" for value in given.pop(key)]
    return found


def spread(blocks: Sequence[Block], entries: Sequence[Entry], where: str) -> list[Block]:
    """Each block once for every method and set of options that it has, with what the grid has for it.

    That is of the lines that fit the one with most options; ``"*"`` where none names the method.

    Raises UserError for a method without a line, and for a line without a method.
    """
    found, used = [], set[str]()
    for block in blocks:
        for method, options in _methods(block, where):
            fitting = [one for one in entries if one.fits(method, options)]
            if not fitting:
                raise UserError(f"{where}: grid has no line for {method}, nor one for '*', every other method")
            entry = max(fitting, key=lambda one: (one.method != EVERY, len(one.options)))
            used.add(entry.name)
            searched = tuple(key.removeprefix("method.") for key in entry.values if key != RATE)
            _check_options(method, options, searched, block.origin)
            rest = {key: values for key, values in block.settings.items() if not _is_method(key)}
            own = {"method": [f"method={method}"]} | {one.partition("=")[0]: [one] for one in sorted(options)}
            found.append(Block(rest | own | entry.values, block.origin, searched))
    for entry in entries:
        if entry.name not in used:
            raise UserError(f"{where}: grid has {entry.name}, and no run is of it")
    return found


def _methods(block: Block, where: str) -> Iterator[tuple[str, frozenset[str]]]:
    """A block's methods, each with every combination of the options that it has there."""
    if "method" not in block.settings:
        raise UserError(f"{block.origin}: no method is named, and a search chooses for each")
    options = [values for key, values in block.settings.items() if key.startswith("method.")]
    for method in block.settings["method"]:
        for combination in itertools.product(*options):
            yield method.partition("=")[2], frozenset(combination)


def _is_method(key: str) -> bool:
    return key == "method" or key.startswith("method.")


def _check_options(method: str, options: frozenset[str], searched: Sequence[str], origin: str) -> None:
    if method not in names("method"):
        return  # reported where it is composed, with what else the command line has
    known = method_section(method)
    for name in searched:
        if name not in known:
            raise UserError(
                f"grid.{name}: a search chooses learning rates and methods' options, and {method} has no option "
                f"{name!r}: {nearest(name, sorted(known))}"
            )
        if any(one.startswith(f"method.{name}=") for one in options):
            raise UserError(f"{origin}: method.{name} of {method} is given, and the grid tries several of it")


def _entry(name: str, values: Any, where: str) -> Entry:
    method, *options = re.split(r",(?![^\[]*\])", name)
    if method not in (EVERY, *names("method")):
        raise UserError(f"{where}: grid has no method {method!r}: {nearest(method, names('method'))}")
    given = frozenset(f"method.{option.strip()}" for option in options)
    lists = values if isinstance(values, dict) else {RATE_NAME: values}
    found = {}
    for key, each in lists.items():
        what = f"grid.{name}.{key}" if isinstance(values, dict) else f"grid.{name}"
        if not isinstance(each, list) or not each:
            kind = "learning rates" if key == RATE_NAME else "values"
            raise UserError(f"{where}: {what} must be a list of {kind}, got {each!r}")
        setting = RATE if key == RATE_NAME else f"method.{key}"
        found[setting] = [f"{setting}={on_command_line(value)}" for value in each]
    if RATE not in found:
        raise UserError(f"{where}: grid.{name} has no learning_rate")
    return Entry(name, method, given, found)


def _of_sweep(content: Any, where: str) -> list[Block]:
    """The blocks of the sweep that a search file names, whose runs its trials are as long as: what the sweep says, but
    with the search's own ``settings``, one seed unless these name several, and no tuned file."""
    if "blocks" in content:
        raise UserError(f"{where} has both sweep: and blocks:, and takes its runs from one of them")
    sweep, origin = read_file("sweep", str(content["sweep"]))
    settings = content.get("settings", {})
    if not isinstance(sweep, dict) or not isinstance(settings, dict):
        raise UserError(f"{where}: settings must be a group of settings, and sweep the name of a sweep")
    found = []
    for block in read_blocks(sweep | {"settings": sweep.get("settings", {}) | settings}, origin):
        kept = {key: values for key, values in block.settings.items() if key != "tuned"}
        if "seed" in kept and "seed" not in settings:
            kept["seed"] = kept["seed"][:1]
        found.append(Block(kept, block.origin))
    return found
