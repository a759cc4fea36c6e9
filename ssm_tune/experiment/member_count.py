"""How many runs' steps are computed at once: as many as fit into memory, if that is faster than one at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ssm_tune.data.token_cache import TokenizedDataset
from ssm_tune.experiment.setup import Experiment
from ssm_tune.methods.adapter import Adapter
from ssm_tune.training.members import begin_steps
from ssm_tune.training.recompute_plan import USABLE, RecomputePlan
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import UserError

ROUNDS = 2
WORTHWHILE = 1.05
"""Times the steps a second: a smaller gain may be chance."""


def choose_count(
    adapters: Sequence[Adapter],
    sequences: TokenizedDataset,
    experiment: Experiment,
    plan: RecomputePlan,
    wanted: int | None,
) -> tuple[int, str]:
    """How many members are computed at once, and a line that says so.

    plan: of one run. wanted: None: find out. Raises UserError where more are wanted than fit, with what would fit.
    """
    runs, fitting = len(adapters), fitting_members(plan, len(adapters))
    if wanted is not None:
        count = min(wanted, runs)
        if count > fitting:
            raise UserError(
                f"sweep.together={wanted}: the longest batches of {count} runs need more memory than there is: "
                f"sweep.together={fitting} would fit"
            )
        return count, f"steps of {count} runs are computed together"
    if fitting < 2:
        return 1, f"one of {runs} runs at a time: the longest batches of two need more memory than there is"
    one, joined = _measured(adapters[:fitting], sequences, experiment)
    gain = fitting * one / joined
    what = f"{fitting} together make {gain:.2f} times the steps a second of one ({1e3 * one:.0f} ms a step)"
    if gain < WORTHWHILE:
        return 1, f"one of {runs} runs at a time: {what}"
    return fitting, f"steps of {fitting} runs are computed together: {what}"


def fitting_members(plan: RecomputePlan, most: int) -> int:
    """How many of ``most`` members fit the budget, at least 1. plan: of one; without a budget the machine's free memory
    is taken for it."""
    if plan.budget is None and (free := _available_memory()) is not None:
        plan = dataclasses.replace(plan, budget=USABLE * free)
    return next((count for count in range(most, 1, -1) if plan.of_members(count).excess() is None), 1)


def _measured(adapters: Sequence[Adapter], sequences: TokenizedDataset, experiment: Experiment) -> tuple[float, float]:
    """Seconds that the gradients of one member take, and those of all. Nothing is trained."""
    pad, micro_batch = experiment.tokenizer.eos_id, experiment.config.train.micro_batch
    trainers = [
        Trainer(adapter, sequences, experiment.train, pad, None, micro_batch, check=False) for adapter in adapters
    ]
    experiment.model.train()
    begin_steps(trainers[:1])  # the first step of a process takes longer
    seconds = [0.0, 0.0]
    for number in range(ROUNDS):
        for way, chosen in enumerate(([trainers[number % len(trainers)]], trainers)):
            begun = time.perf_counter()
            begin_steps(chosen)
            torch.stack([trainer.step.loss for trainer in chosen]).tolist()  # waits for a device
            seconds[way] += (time.perf_counter() - begun) / ROUNDS
    return seconds[0], seconds[1]


def _available_memory() -> int | None:
    """Bytes that the machine has free; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
