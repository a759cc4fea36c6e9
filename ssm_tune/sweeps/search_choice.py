"""Which of a search's trials are best: what is chosen for a task and method, and what a tuned file says of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ssm_tune.config.variants import spelled
from ssm_tune.records.trial import Trial
from ssm_tune.utils.errors import UserError


@dataclass(frozen=True)
class Candidate:
    """A rate and the options that are searched with it (by name), with a trial for each seed."""

    rate: float
    options: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def score(self) -> float | None:
        """The primary metric on the selection split, a fraction, the mean over seeds; None where a trial diverged."""
        scores = [score_of(trial) for trial in self.trials]
        known = [score for score in scores if score is not None]
        return fmean(known) if len(known) == len(scores) else None

    @property
    def loss(self) -> float:
        return fmean([_loss_of(trial) for trial in self.trials])

    @property
    def order(self) -> tuple[list[str], float]:
        """Candidates of the same options stand together, their rates rising."""
        return [f"{name}={spelled(value)}" for name, value in sorted(self.options.items())], self.rate


@dataclass(frozen=True)
class Choice:
    """best: what is taken. edge: whether its rate is the smallest or the largest that was tried with its options, and a
    better may lie beyond it. tried: every candidate, in order."""

    best: Candidate
    edge: bool
    tried: tuple[Candidate, ...]

    @property
    def rate(self) -> float:
        return self.best.rate


def candidates(trials: Sequence[Trial], searched: Sequence[str] = ()) -> list[Candidate]:
    """The trials of one task and method, those of one rate and one set of ``searched`` options together; in order."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        options = {name: trial["cell"]["method_options"].get(name) for name in searched}
        found.setdefault(json.dumps([rate_of(trial), options], sort_keys=True), []).append(trial)
    made = []
    for key, group in found.items():
        rate, options = json.loads(key)
        made.append(Candidate(rate, options, tuple(sorted(group, key=lambda trial: trial["cell"]["seed"]))))
    return sorted(made, key=lambda one: one.order)


def ranked(tried: Sequence[Candidate]) -> list[Candidate]:
    """Those that have a score, the best first: by the primary metric, of equal ones by the lowest training loss (a
    metric that none has moved yet ranks nothing), then by the smallest rate."""
    scored = [one for one in tried if one.score is not None]
    return sorted(scored, key=lambda one: (-(one.score or 0.0), one.loss, one.rate))


def choose(tried: Sequence[Candidate]) -> Choice | None:
    """The best candidate; None where all diverged."""
    order = ranked(tried)
    if not order:
        return None
    best = order[0]
    rates = [one.rate for one in tried if one.options == best.options]
    edge = len(rates) > 1 and best.rate in (min(rates), max(rates))
    return Choice(best, edge, tuple(sorted(tried, key=lambda one: one.order)))


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


def provenance(choice: Choice, every: Sequence[Trial], budget: Mapping[str, Any]) -> dict[str, Any]:
    """What a tuned file says of a choice. every: all trials that led to it, with those of earlier rounds; budget: what
    every method of the task was given."""
    trials = [trial for one in choice.tried for trial in one.trials]
    first, seeds = trials[0], sorted({trial["cell"]["seed"] for trial in trials})
    return {
        "metric": first["primary_metric"],
        "split": first["splits"]["selection"],
        "examples": first["examples"],
        "steps": max(trial["steps"] for trial in trials),
        "batch_size": first["config"]["train"]["batch_size"],
        **({"seed": seeds[0]} if len(seeds) == 1 else {"seeds": seeds}),
        "tried": [_tried(one) for one in choice.tried],
        "edge": choice.edge,
        "trials": len(every),
        "seconds": round(sum(trial["seconds"]["total"] for trial in every), 1),
        **budget,
        "data": first["hashes"]["data"][:16],
        "model": first["hashes"]["model"][:16],
    }


def _tried(one: Candidate) -> list[Any]:
    score = "diverged" if one.score is None else round(one.score, 6)
    return [one.rate, score, one.options] if one.options else [one.rate, score]


def same_kind(group: str, trials: Sequence[Trial]) -> None:
    """Raise UserError where trials to be compared saw other data or another model. group: what they are for."""
    kinds: Mapping[str, Trial] = {json.dumps(trial["hashes"], sort_keys=True): trial for trial in trials}
    if len(kinds) > 1:
        raise UserError(
            f"the trials of {group} are of several data or checkpoints: delete those under "
            f"trials/{trials[0]['cell']['task']}/ that are of older ones, and search again"
        )
