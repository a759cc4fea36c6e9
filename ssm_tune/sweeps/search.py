"""Hyperparameter search: which trials there are, and that every method of a task has the same budget.

A search tries learning rates, and options if asked, for each method and task on the selection split.
conf/search/NAME.yaml holds ``grid`` (what is tried, by method) and the ``sweep`` whose runs it is for, or ``blocks`` of
its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from ssm_tune.config.compose import RATE, Composer
from ssm_tune.config.groups import model_label
from ssm_tune.config.schema import Config
from ssm_tune.config.tuned import batch_size_of
from ssm_tune.config.variants import variant
from ssm_tune.sweeps.search_grid import EVERY, Entry, from_file, given_values, spread
from ssm_tune.sweeps.sweep_file import Block, PlannedRun, Sweep, narrowed, read_file, read_settings
from ssm_tune.utils.errors import UserError

STANDARD = {"protocol": ["protocol=standard"]}
"""Unless another protocol is asked for, which a trial refuses."""
MOST_EXTENDED = 20
"""Rates that a method's grid may grow by."""


class Group(NamedTuple):
    """What a choice is for. method: with the options that are not its defaults, but for those that are searched."""

    model: str
    task: str
    method: str


@dataclass(frozen=True)
class Search:
    """Trials as a sweep and the configuration of each. tuned: the file of conf/tuned that they are for, if said.

    extend: how many rates a grid may grow by beyond an edge that holds the best. halving: by which number candidates
    are cut after each round of longer trials (successive halving), None where all are tried in full.
    """

    sweep: Sweep
    configs: list[Config]
    tuned: str | None
    extend: int = 0
    halving: int | None = None
    composer: Composer = field(default_factory=Composer, compare=False, repr=False)

    @cached_property
    def groups(self) -> dict[Group, list[int]]:
        """The numbers of the trials by what they are for."""
        found: dict[Group, list[int]] = {}
        for number, (run, config) in enumerate(zip(self.sweep.runs, self.configs, strict=True)):
            method = variant(config.method, without=run.searched)
            found.setdefault(Group(model_label(config.model), config.task["name"], method), []).append(number)
        return found

    def searched(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """The options that trials of one group try."""
        return self.sweep.runs[numbers[0]].searched

    def label(self, group: Group) -> str:
        """The group in words: with the model where the search has several."""
        several = len({model_label(config.model) for config in self.configs}) > 1
        return " ".join([group.model, group.task, group.method] if several else [group.task, group.method])

    def part(self, runs: Sequence[PlannedRun]) -> Search:
        """The same search with other trials. Raises UserError for what cannot be composed."""
        configs = [_composed(self.composer, run) for run in runs]
        return dataclasses.replace(self, sweep=dataclasses.replace(self.sweep, runs=list(runs)), configs=configs)


def read_search(settings: Sequence[str], extend: int | None = None, halving: int | None = None) -> Search:
    """The search that settings stand for: ``search=NAME`` for a file's, and else as behind -m.

    extend, halving: in place of what the file says.

    Raises UserError for what cannot be read, a rate outside the schema, a look at the reported split, or methods of one
    task that are not given the same budget.
    """
    sweep, given = read_settings(settings, "search")
    values = given_values(given)
    content: Any = {}
    if len(sweep.files) > 1:
        raise UserError(f"one search at a time, got {', '.join(sweep.files)}")
    if sweep.files:
        content, where = read_file("search", sweep.files[0])
        blocks = from_file(content, where, values)
        if not isinstance(content.get("tuned"), str):
            raise UserError(f"{where} must hold 'tuned:', the file of conf/tuned that takes what is found")
    else:
        where = "the search"
        if RATE in given:
            values.setdefault(RATE, given.pop(RATE))
        block = Block({key.lstrip("+"): each for key, each in given.items()}, where)
        blocks, given = spread([block], [Entry(EVERY, EVERY, frozenset(), values)], where), {}
        if RATE not in values:
            raise UserError("name the learning rates to try: grid.learning_rate=1e-3,3e-3,1e-2, or a file's search")
    blocks = [dataclasses.replace(block, settings=STANDARD | block.settings) for block in blocks]
    sweep.runs = narrowed(blocks, given | {"trial": ["trial=true"]}, where)
    extend = _whole(content, "extend", extend, 0, where)
    halving = _whole(content, "halving", halving, 2, where)
    search = Search(sweep, [], content.get("tuned"), extend or 0, halving).part(sweep.runs)
    _same_budget(search)
    return search


def _whole(content: Any, name: str, given: int | None, least: int, where: str) -> int | None:
    value = content.get(name) if given is None else given
    if value is not None and not (type(value) is int and least <= value <= MOST_EXTENDED):
        raise UserError(f"{where}: {name} must be a whole number from {least} to {MOST_EXTENDED}, got {value!r}")
    return value


def _composed(composer: Composer, run: PlannedRun) -> Config:
    try:
        config = composer.config(run.overrides)
    except UserError as error:
        raise UserError(f"{run.origin}: {error}") from error
    if config.train.learning_rate is None:
        raise UserError(f"{run.origin}: {RATE} is null, which is no learning rate to try")
    return config


def _same_budget(search: Search) -> None:
    """Raise UserError unless every method of a task has as many trials, of the same length on the same examples."""
    budgets: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for group, numbers in search.groups.items():
        configs = [search.configs[number] for number in numbers]
        budget, name = _budget(configs[0]), f"{group.method} on {group.task}"
        if any(_budget(config) != budget for config in configs):
            raise UserError(f"the trials of {name} differ in more than the learning rate")
        tried = [(config.train.learning_rate, variant(config.method), config.seed) for config in configs]
        if len(set(tried)) < len(tried):
            raise UserError(f"{name} has a learning rate twice: a search takes one budget for each model and task")
        budget = {"trials": len(tried), "seeds": sorted({config.seed for config in configs})} | budget
        other, known = budgets.setdefault((group.model, group.task), (group.method, budget))
        if known["trials"] != budget["trials"]:
            raise UserError(
                f"every method of a task has the same budget, but on {group.task} {other} has {known['trials']} trials "
                f"and {group.method} {budget['trials']}"
            )
        for key in known:
            if known[key] != budget[key]:
                raise UserError(
                    f"every method of a task has the same budget, but on {group.task} {other} has {key}={known[key]} "
                    f"and {group.method} {key}={budget[key]}"
                )


def _budget(config: Config) -> dict[str, Any]:
    """What a trial costs, and what it is measured on."""
    train = {f"train.{key}": value for key, value in dataclasses.asdict(config.train).items() if key != "learning_rate"}
    if config.train.batch_size is None:
        train["train.batch_size"] = batch_size_of(config, model_label(config.model))
    others = {"model": config.model, "data": dataclasses.asdict(config.data), "decode": config.decode}
    return train | {"splits": config.splits, **others}
