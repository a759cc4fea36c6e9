"""Which runs of a sweep train together, and how a worker does them: sweep.together."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ssm_tune.config.schema import Config
from ssm_tune.records.run_id import labels_of
from ssm_tune.utils.text import printable

NUMBERS = (
    "learning_rate", "lr_schedule", "lr_warmup", "epochs", "max_steps", "evaluate_every", "max_grad_norm",
    "weight_decay", "beta1", "beta2", "eps",
)  # fmt: skip
"""Settings of ``train`` in which runs that train together may differ, beside the seed."""
MOST = 16
"""Runs of a group where sweep.together=auto has them measured."""


def groups_of(configs: Sequence[Config], together: int | None) -> list[list[int]]:
    """The numbers of the runs, those that train together in one list. together: how many at once; None: as pays."""
    alike: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        alike.setdefault(_shared(config), []).append(number)
    most = MOST if together is None else together
    return sorted(found[at : at + most] for found in alike.values() for at in range(0, len(found), most))


def _shared(config: Config) -> str:
    """What runs must have in common to train together."""
    settings: dict[str, Any] = asdict(config)
    del settings["seed"]
    for name in NUMBERS:
        del settings["train"][name]
    return json.dumps(settings, sort_keys=True, default=str)


def split_for(groups: list[list[int]], workers: int) -> list[list[int]]:
    """The groups, cut until there is one for each of the workers: runs side by side are faster than runs together."""
    groups = list(groups)
    while len(groups) < workers and len(largest := max(groups, key=len)) > 1:
        groups.remove(largest)
        groups += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return sorted(groups)


def tell_alone(runs: Sequence[Sequence[str]], groups: Sequence[list[int]]) -> None:
    """Say which runs have no other to train with."""
    labels = labels_of(runs)
    alone = [labels[group[0]] for group in groups if len(group) == 1]
    if alone:
        named = ", ".join(map(printable, alone[:5])) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
        print(f"sweep.together: no other run differs in seed and numbers alone, so alone run: {named}", file=sys.stderr)
