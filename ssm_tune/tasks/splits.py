"""Parts of a split, drawn by one fixed seed: a validation split held out of train, and a subsample."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

from ssm_tune.tasks.base import Dataset, Example
from ssm_tune.utils.errors import UserError

HOLD_OUT_SEED = 123
"""Fixed, so that every run of every method selects on the same examples."""


def hold_out_validation(dataset: Dataset) -> Dataset:
    """Move min(10%, 1,000) examples of train into a split "carved", which picks the epoch.

    Groups are moved whole, so that it has databases or entries that training does not.
    Raises UserError where train is too small.
    """
    splits = dict(dataset.splits)
    splits["train"], splits["carved"] = hold_out(splits["train"], f"{dataset.name}: ")
    return dataclasses.replace(dataset, splits=splits)


def hold_out(examples: list[Example], where: str) -> tuple[list[Example], list[Example]]:
    """The examples that stay, and min(10%, 1,000) that are held out, drawn in whole groups; each in the given order.

    where: the start of the UserError's message, which is raised where there are too few examples or groups.
    """
    count = min(len(examples) // 10, 1000)
    groups = list(dict.fromkeys(example.group or example.id for example in examples))
    if count == 0 or len(groups) < 2:
        raise UserError(f"{where}{len(examples)} training examples are too few to hold some out for selection")
    sizes = Counter(example.group or example.id for example in examples)
    held_out: set[str] = set()
    for group in _shuffled(groups)[:-1]:  # one group at least is left to train on
        if sum(sizes[name] for name in held_out) >= count:
            break
        held_out.add(group)
    stay = [example for example in examples if (example.group or example.id) not in held_out]
    return stay, [example for example in examples if (example.group or example.id) in held_out]


def subsample(examples: list[Example], count: int) -> list[Example]:
    """``count`` of the examples in their order; all of them where there are no more."""
    chosen = set(_shuffled([example.id for example in examples])[:count])
    return [example for example in examples if example.id in chosen]


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """The data set with at most ``limit`` examples of every split (None: all)."""
    if limit is None:
        return dataset
    splits = {name: subsample(examples, limit) for name, examples in dataset.splits.items()}
    return dataclasses.replace(dataset, splits=splits)


def _shuffled(items: list[str]) -> list[str]:
    generator = random.Random(HOLD_OUT_SEED)
    return sorted(items, key={item: generator.random() for item in items}.__getitem__)
