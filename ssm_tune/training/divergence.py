"""When a training has diverged."""

from __future__ import annotations

import math
from collections.abc import Sequence

WINDOW = 20
"""Steps whose mean loss is held against the divergence limit."""


def divergence(steps: Sequence[dict[str, float]], vocabulary: int) -> str | None:
    """Why training has gone astray with its last step, if it has.

    steps: a row for each so far, with step, loss and grad_norm. vocabulary: tokens that a uniform guess picks from.
    """
    recent = [row["loss"] for row in steps[-WINDOW:]]
    step = int(steps[-1]["step"])
    if not math.isfinite(recent[-1]) or not math.isfinite(steps[-1]["grad_norm"]):
        return f"the loss or its gradient is not finite at step {step}"
    # a uniform guess costs log V; a model that is sure of other answers may cost more before it has learnt anything
    start = sum(row["loss"] for row in steps[:WINDOW]) / min(WINDOW, step)
    limit = 2 * max(math.log(vocabulary), start)
    if len(recent) == WINDOW and sum(recent) / WINDOW > limit:
        return f"the mean loss of {WINDOW} steps is above {limit:.1f} at step {step}"
    return None
