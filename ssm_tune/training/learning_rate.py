"""The learning rate of each step, as a factor on the run's: a linear rise first, if any, then a schedule.

The factors are those of ``get_scheduler`` in transformers and of PyTorch's LambdaLR with them. The warm-up here is the
learning rate's; that of ``training/warmup.py`` is a method's, a stage of its own before the training.
"""

from __future__ import annotations

import math

from ssm_tune.utils.errors import UserError


def rising_steps(lr_warmup: float, steps: int) -> int:
    """The steps of the rise. lr_warmup: a number of steps, or below 1 the part of all ``steps``.

    Raises UserError where no step is left at the full rate.
    """
    rising = math.ceil(steps * lr_warmup) if lr_warmup < 1 else int(lr_warmup)
    if rising >= steps > 0 and rising:
        raise UserError(f"train.lr_warmup={lr_warmup:g} leaves none of the {steps} steps at the full learning rate")
    return rising


def rate_factor(lr_schedule: str, lr_warmup: float, step: int, steps: int) -> float:
    """The factor for the step after ``step`` others, of ``steps`` in all."""
    rising = rising_steps(lr_warmup, steps)
    if step < rising:
        return step / rising
    if lr_schedule == "constant":
        return 1.0
    done = (step - rising) / (steps - rising)
    return 1 - done if lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
