"""The steps before a training whose outcome decides what the training trains (methods with ``num_warmup_steps``).

Everything happens in the tensors where they lie, so that captured steps and checkpoints know nothing of it.
"""

from __future__ import annotations

import torch

from ssm_tune.methods.adapter import Adapter
from ssm_tune.training.train_step import TrainStep


class WarmUp:
    """steps: how many come first: those of the method, and no more than the training has."""

    def __init__(self, adapter: Adapter, training_steps: int) -> None:
        self.adapter, self.steps = adapter, min(adapter.method.num_warmup_steps, training_steps)
        optimized = adapter.optimized if self.steps else {}
        self._start = {name: value.detach().clone() for name, value in optimized.items()}

    @torch.no_grad()
    def finish(self, step: TrainStep) -> None:
        """Let the method choose by what has moved, and set everything else back to where it started."""
        self.adapter.method.finish_warmup(self.adapter.model)
        for name, value in self._start.items():
            self.adapter.optimized[name].copy_(value)
        step.reset_moments()
