"""The rounds of a search: the whole grid, then rates beyond an edge that holds the best, or longer trials of fewer.

Successive halving is Jamieson and Talwalkar's (2016, section 3): all candidates are tried for a part of the steps, the
best of them for more, up to the full length. Each trial is a run of its own, whose learning rate falls to zero over its
steps; nothing is continued.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ssm_tune.config.compose import RATE
from ssm_tune.records.trial import Trial
from ssm_tune.sweeps.search import Search
from ssm_tune.sweeps.search_choice import candidates, choose, ranked
from ssm_tune.sweeps.sweep_file import PlannedRun
from ssm_tune.utils.errors import UserError

STEPS = "train.max_steps"
Look = Callable[[Search], Sequence[Trial | None]]
"""Of each trial of a search what it left, if it was run."""


def check_rounds(search: Search) -> None:
    """Raise UserError where a search cannot have the rounds that it asks for."""
    if search.extend and search.halving:
        raise UserError("a search either extends its grid or halves its candidates: leave out extend or halving")
    for group, numbers in search.groups.items():
        rates = _rates(search, numbers)
        if search.extend:
            if len(rates) < 2:
                raise UserError(
                    f"the grid of {search.label(group)} cannot be extended: with one learning rate there is no step to "
                    "go on with; give two and more"
                )
            for low in (True, False):
                grown = list(rates)
                for _ in range(search.extend):
                    grown.append(beyond(grown, low))
                try:
                    dataclasses.replace(search.configs[numbers[0]].train, learning_rate=grown[-1])
                except UserError as error:
                    raise UserError(
                        f"the grid of {search.label(group)} cannot be extended by {search.extend}: {error}"
                    ) from error
        if search.halving:
            if search.configs[numbers[0]].train.max_steps is None:
                raise UserError(f"halving shortens trials: it needs {STEPS}, the full length")
            if _count(search, numbers) <= search.halving:
                raise UserError(
                    f"halving by {search.halving} needs more candidates than {search.halving}, and "
                    f"{search.label(group)} has {_count(search, numbers)}"
                )
    if search.halving and len({_count(search, numbers) for numbers in search.groups.values()}) > 1:
        raise UserError("halving needs as many candidates for each method on every task")


def rounds(search: Search, look: Look) -> Iterator[Search]:
    """The trials of each round, which are to be run before the next is asked for."""
    if search.halving:
        yield from _halved(search, look)
        return
    yield search
    basis = search
    while search.extend and (runs := _extended(search, basis, look(basis))):
        part = search.part(runs)
        basis = dataclasses.replace(
            basis,
            sweep=dataclasses.replace(basis.sweep, runs=[*basis.sweep.runs, *runs]),
            configs=[*basis.configs, *part.configs],
        )
        yield part


def cuts(search: Search) -> list[tuple[int, int]]:
    """With halving, for each round: how many candidates a method has, and which part of its steps a trial is."""
    assert search.halving is not None
    counts = [_count(search, next(iter(search.groups.values())))]
    while counts[-1] > search.halving:
        counts.append(-(-counts[-1] // search.halving))
    return [(count, search.halving ** (len(counts) - 1 - place)) for place, count in enumerate(counts)]


def steps_of(search: Search, number: int, part: int) -> int:
    """The steps of a trial that is one part of so many."""
    steps = search.configs[number].train.max_steps
    assert steps is not None
    return -(-steps // part)


def beyond(rates: Sequence[float], low: bool) -> float:
    """The rate beyond the smallest (low) or the largest: the step goes on as the last two did, so that 1e-3, 3e-3, 1e-2
    is followed by 3e-2."""
    inwards = sorted(rates, reverse=not low)
    first, second = (inwards[1], inwards[2]) if len(inwards) > 2 else (inwards[0], inwards[1])
    return float(f"{inwards[0] * first / second:.6g}")


def _extended(search: Search, basis: Search, trials: Sequence[Trial | None]) -> list[PlannedRun]:
    """The next rate of every group whose best rate is the smallest or the largest that was tried."""
    found = []
    for numbers in basis.groups.values():
        there = [trial for number in numbers if (trial := trials[number]) is not None]
        seeds = {basis.configs[number].seed for number in numbers}
        grown = sum(number >= len(search.configs) for number in numbers) // len(seeds)
        if len(there) < len(numbers) or grown >= search.extend:
            continue
        searched = basis.searched(numbers)
        tried = candidates(there, searched)
        choice = choose(tried)
        if choice is not None and not choice.edge:
            continue
        best = tried[0] if choice is None else choice.best  # where all diverged, smaller rates are tried
        rates = [one.rate for one in tried if one.options == best.options]
        rate = beyond(rates, low=choice is None or best.rate == min(rates))
        found += [
            _changed(basis.sweep.runs[number], RATE, rate)
            for number in numbers
            if _candidate(basis, number) == (best.rate, best.options)
        ]
    return found


def _halved(search: Search, look: Look) -> Iterator[Search]:
    kept, plan = list(range(len(search.configs))), cuts(search)
    for place, (_, share) in enumerate(plan):
        part = search.part(
            [_changed(search.sweep.runs[number], STEPS, steps_of(search, number, share)) for number in kept]
        )
        yield part
        if place + 1 < len(plan):
            trials = dict(zip(kept, look(part), strict=True))
            kept = [
                number
                for numbers in search.groups.values()
                for number in _survivors(search, [n for n in numbers if n in trials], trials, plan[place + 1][0])
            ]
        if not kept:
            return


def _survivors(search: Search, numbers: Sequence[int], trials: Mapping[int, Trial | None], most: int) -> list[int]:
    """Of one group's trials those of its best candidates; none where a trial is missing."""
    there = [trial for number in numbers if (trial := trials[number]) is not None]
    if len(there) < len(numbers) or not there:
        return []
    searched = search.searched(numbers)
    best = [(one.rate, one.options) for one in ranked(candidates(there, searched))[:most]]
    return [number for number in numbers if _candidate(search, number) in best]


def _candidate(search: Search, number: int) -> tuple[float | None, dict[str, Any]]:
    config = search.configs[number]
    return config.train.learning_rate, {name: config.method[name] for name in search.sweep.runs[number].searched}


def _count(search: Search, numbers: Sequence[int]) -> int:
    """How many candidates a group has: trials that differ in more than the seed."""
    return len(numbers) // len({search.configs[number].seed for number in numbers})


def _rates(search: Search, numbers: Sequence[int]) -> list[float]:
    """The learning rates of a group's trials."""
    return sorted({rate for number in numbers if (rate := search.configs[number].train.learning_rate) is not None})


def _changed(run: PlannedRun, setting: str, value: float) -> PlannedRun:
    """The run with another value of a setting."""
    others = [item for item in run.overrides if item.partition("=")[0] != setting]
    return dataclasses.replace(run, overrides=[*others, f"{setting}={value!r}"])
