"""Learning rates by search: which trials there are, and which rate they choose.

A search tries a grid of learning rates for each method and task on the selection split, with the same budget for every
method of a task. conf/search/NAME.yaml holds ``grid`` (rates by method) and ``blocks``, as a sweep file does.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssm_tune.config.compose import RATE, Composer
from ssm_tune.config.groups import model_label, names
from ssm_tune.config.schema import Config
from ssm_tune.config.tuned import batch_size_of, variant
from ssm_tune.records.trial import Trial
from ssm_tune.sweeps.sweep_file import (
    Block,
    PlannedRun,
    Sweep,
    narrowed,
    on_command_line,
    read_blocks,
    read_file,
    read_settings,
)
from ssm_tune.utils.errors import UserError, nearest

STANDARD = {"protocol": ["protocol=standard"]}
"""Unless another protocol is asked for, which a trial refuses."""


@dataclass(frozen=True)
class Search:
    """The trials as a sweep and the configuration of each. tuned: the file of conf/tuned that they are for, if said."""

    sweep: Sweep
    configs: list[Config]
    tuned: str | None

    def groups(self) -> dict[tuple[str, str], list[int]]:
        """By task and method, with the options that are not its defaults: the numbers of the trials."""
        found: dict[tuple[str, str], list[int]] = {}
        for number, config in enumerate(self.configs):
            found.setdefault((config.task["name"], variant(config.method)), []).append(number)
        return found


@dataclass(frozen=True)
class Choice:
    """rate: the best one; edge: whether it is the smallest or the largest of the grid, beyond which a better may lie.

    trials: by rate, in order; a diverged one has its rate and no score.
    """

    rate: float
    edge: bool
    trials: tuple[Trial, ...]


def read_search(settings: Sequence[str]) -> Search:
    """The search that settings stand for: ``search=NAME`` for a file's, and else as behind -m.

    Raises UserError for what cannot be read, a rate outside the schema, a look at the reported split, or methods of one
    task that are not given the same budget.
    """
    sweep, given = read_settings(settings, "search")
    rates = _given_rates(given)
    tuned = None
    if len(sweep.files) > 1:
        raise UserError(f"one search at a time, got {', '.join(sweep.files)}")
    if sweep.files:
        content, where = read_file("search", sweep.files[0])
        blocks, tuned = _blocks(content, where, rates), content.get("tuned")
        if not isinstance(tuned, str):
            raise UserError(f"{where} must hold 'tuned:', the file of conf/tuned that takes what is found")
    else:
        where = "the search"
        if RATE not in given and rates is None:
            raise UserError("name the learning rates to try: grid.learning_rate=1e-3,3e-3,1e-2, or a file's search")
        rates = given.pop(RATE) if rates is None else rates
        blocks = [Block({key.lstrip("+"): values for key, values in given.items()} | {RATE: rates}, where)]
        given = {}
    blocks = [Block(STANDARD | block.settings, block.origin) for block in blocks]
    sweep.runs = narrowed(blocks, given | {"trial": ["trial=true"]}, where)
    composer = Composer()
    search = Search(sweep, [_composed(composer, run) for run in sweep.runs], tuned)
    _same_budget(search)
    return search


def _given_rates(given: dict[str, list[str]]) -> list[str] | None:
    """The rates of the command line, taken out of it, as settings of the runs."""
    rates = None
    for key in [key for key in given if key.lstrip("+").partition(".")[0] == "grid"]:
        if key.lstrip("+") != "grid.learning_rate":
            raise UserError(f"{key}: a search chooses learning rates: grid.learning_rate=1e-3,3e-3")
        rates = [f"{RATE}={value.partition('=')[2]}" for value in given.pop(key)]
    return rates


def _blocks(content: Any, where: str, rates: list[str] | None) -> list[Block]:
    """The file's blocks, each once for every method of the grid that it has. rates: instead of the file's."""
    if not isinstance(content, dict) or not isinstance(content.get("grid"), dict) or not content["grid"]:
        raise UserError(f"{where} must hold 'grid:', learning rates by method")
    found = []
    for block in read_blocks(content, where):
        if RATE in block.settings or "method" in block.settings:
            raise UserError(f"{block.origin}: methods and their learning rates stand in 'grid:'")
        for name, values in content["grid"].items():
            method, *options = str(name).split(",")
            if method not in names("method"):
                raise UserError(f"{where}: grid has no method {method!r}: {nearest(method, names('method'))}")
            if not isinstance(values, list) or not values:
                raise UserError(f"{where}: grid.{name} must be a list of learning rates, got {values!r}")
            own = {"method": [f"method={method}"]}
            own |= {f"method.{key}": [f"method.{key}={value}"] for key, _, value in (o.partition("=") for o in options)}
            grid = rates or [f"{RATE}={on_command_line(value)}" for value in values]
            found.append(Block(block.settings | own | {RATE: grid}, block.origin))
    return found


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
    budgets: dict[str, tuple[str, dict[str, Any], int]] = {}
    for (task, method), numbers in search.groups().items():
        rates = [search.configs[number].train.learning_rate for number in numbers]
        if len(set(rates)) < len(rates):
            raise UserError(f"{method} on {task} has a learning rate twice: a search takes one model, seed and budget")
        budget = _budget(search.configs[numbers[0]])
        if any(_budget(search.configs[number]) != budget for number in numbers):
            raise UserError(f"the trials of {method} on {task} differ in more than the learning rate")
        other, known, count = budgets.setdefault(task, (method, budget, len(numbers)))
        if count != len(numbers):
            raise UserError(
                f"every method of a task has the same budget, but on {task} {other} has {count} trials and {method} "
                f"{len(numbers)}"
            )
        for key in known:
            if known[key] != budget[key]:
                raise UserError(
                    f"every method of a task has the same budget, but on {task} {other} has {key}={known[key]} and "
                    f"{method} {key}={budget[key]}"
                )


def _budget(config: Config) -> dict[str, Any]:
    """What a trial costs, and what it is measured on."""
    train = {f"train.{key}": value for key, value in dataclasses.asdict(config.train).items() if key != "learning_rate"}
    if config.train.batch_size is None:
        train["train.batch_size"] = batch_size_of(config, model_label(config.model))
    others = {"model": config.model, "data": dataclasses.asdict(config.data), "decode": config.decode}
    return train | {"seed": config.seed, "splits": config.splits, **others}


def choose(trials: Sequence[Trial]) -> Choice | None:
    """The rate whose trial has the best primary metric, of equal ones that with the lowest training loss (a metric that
    none has moved yet chooses nothing), then the smallest; None where all diverged."""
    ordered = tuple(sorted(trials, key=rate_of))
    scored = [trial for trial in ordered if score_of(trial) is not None]
    if not scored:
        return None
    best = max(scored, key=lambda trial: (score_of(trial) or 0.0, -_loss_of(trial)))  # the first of equal ones
    return Choice(rate_of(best), len(ordered) > 1 and best in (ordered[0], ordered[-1]), ordered)


def rate_of(trial: Trial) -> float:
    return trial["learning_rate"]["value"]


def score_of(trial: Trial) -> float | None:
    """The primary metric on the selection split, a fraction; None where the trial diverged."""
    best = trial["best"]
    return best["selection"][trial["primary_metric"]] if best is not None and trial["status"] == "completed" else None


def _loss_of(trial: Trial) -> float:
    """The mean training loss of the steps before the trial's last evaluation, back to the one before."""
    loss = trial["epochs"][-1]["train_loss"]
    return math.inf if loss is None else loss


def provenance(choice: Choice) -> dict[str, Any]:
    """What a tuned file says of a choice."""
    trial = choice.trials[0]
    return {
        "metric": trial["primary_metric"],
        "split": trial["splits"]["selection"],
        "examples": trial["examples"],
        "steps": max(one["steps"] for one in choice.trials),
        "batch_size": trial["config"]["train"]["batch_size"],
        "seed": trial["cell"]["seed"],
        "tried": [[rate_of(one), _rounded(score_of(one))] for one in choice.trials],
        "edge": choice.edge,
        "data": trial["hashes"]["data"][:16],
        "model": trial["hashes"]["model"][:16],
    }


def _rounded(score: float | None) -> float | str:
    return "diverged" if score is None else round(score, 6)


def same_kind(method: str, task: str, trials: Sequence[Trial]) -> None:
    """Raise UserError where trials to be compared saw other data or another model."""
    kinds: Mapping[str, Trial] = {json.dumps(trial["hashes"], sort_keys=True): trial for trial in trials}
    if len(kinds) > 1:
        raise UserError(
            f"the trials of {method} on {task} are of several data or checkpoints: delete those under trials/{task}/ "
            "that are of older ones, and search again"
        )
