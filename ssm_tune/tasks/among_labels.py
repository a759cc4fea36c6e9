"""Classification scored a second time, with the likeliest of the labels as the answer. Imports no torch.

A base model seldom writes a label, so that its accuracy says little of what it knows. Evaluation harnesses compare the
likelihoods of the labels alone; these metrics do the same, beside the protocol's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssm_tune.metrics.names import among_labels
from ssm_tune.tasks.base import Example, Scored, Task


def score_predictions(
    task: Task, outputs: Sequence[str], likeliest: Sequence[str] | None, examples: Sequence[Example]
) -> Scored:
    """The task's scores of ``outputs`` and, where ``likeliest`` labels are given, theirs by names of their own."""
    scored = task.score(outputs, examples)
    if likeliest is None:
        return scored
    values = task.score(likeliest, examples).values
    # of a label nothing is left out, and nothing is outside
    own = {among_labels(name): one for name, one in values.items() if not name.startswith(("paper_", "outside_"))}
    return Scored(scored.values | own, scored.statistics)
