"""Checks of a training in progress: does what should train train, and has the loss diverged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_tune.methods.adapter import Adapter
from ssm_tune.utils.errors import UserError

CHECKED_STEPS = 3
"""Some parameters move in the first step, those that depend on them in the second; the third shows that these moved."""
WINDOW = 20
"""Steps whose mean loss is compared with the divergence limit."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(tensor: Tensor) -> int:
    """A checksum of a tensor's bits. Changing one element always changes it; several changes may cancel."""
    bits = tensor.detach().contiguous().view(_BITS[tensor.element_size()])
    return int(bits.sum(dtype=torch.int64))


class TrainabilityCheck:
    """Over the first ``CHECKED_STEPS`` optimizer steps, every trained parameter must move and no frozen one may.

    Raises UserError with the parameter's name.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        method = adapter.method
        self.start = {name: value.detach().clone() for name, value in adapter.named_parameters()}
        self.may_stay_fixed = {name for name in self.start if adapter.matches(name, method.may_stay_fixed)}
        self.moves_from_step_2 = {name for name in self.start if adapter.matches(name, method.moves_from_step_2)}
        self.frozen = {name: fingerprint(value) for name, value in self._frozen().items()}

    def _frozen(self) -> dict[str, Tensor]:
        named = self.adapter.model.named_parameters()
        return {name: value for name, value in named if name not in self.start}

    def after_backward(self, step: int) -> None:
        """Check the gradients of step ``step`` (from 1)."""
        for name, parameter in self.adapter.named_parameters():
            if name in self.may_stay_fixed:
                continue
            grad = parameter.grad
            if grad is None:
                raise self._failed(f"{name} is trained but gets no gradient")
            if not bool(torch.isfinite(grad).all()):
                raise self._failed(f"{name} gets a gradient that is not finite in step {step}")
            if step == 1 and name not in self.moves_from_step_2 and not bool(grad.any()):
                raise self._failed(f"the gradient of {name} is zero in the first step")

    def finish(self, steps: int) -> None:
        """After ``steps`` steps: check which parameters moved."""
        for name, parameter in self.adapter.named_parameters():
            if name in self.may_stay_fixed or (name in self.moves_from_step_2 and steps < 2):
                continue
            if torch.equal(parameter, self.start[name]):
                raise self._failed(
                    f"{name} did not move in {steps} steps (its updates may be lost to rounding: "
                    "try train.adapter_dtype=float32 or a larger train.learning_rate)"
                )
        for name, value in self._frozen().items():
            if fingerprint(value) != self.frozen[name]:
                raise self._failed(f"the frozen {name} changed")

    def _failed(self, what: str) -> UserError:
        return UserError(f"trainability check: {what}")


def divergence(steps: Sequence[dict[str, float]], vocabulary: int) -> str | None:
    """Why training has diverged with its last step, or None if it has not.

    steps: one row for each step so far, with step, loss and grad_norm. vocabulary: the number of tokens.
    """
    recent = [row["loss"] for row in steps[-WINDOW:]]
    step = int(steps[-1]["step"])
    if not math.isfinite(recent[-1]) or not math.isfinite(steps[-1]["grad_norm"]):
        return f"the loss or its gradient is not finite at step {step}"
    # a uniform guess has loss log V; a model that is confident in other outputs may start above that
    start = sum(row["loss"] for row in steps[:WINDOW]) / min(WINDOW, step)
    limit = 2 * max(math.log(vocabulary), start)
    if len(recent) == WINDOW and sum(recent) / WINDOW > limit:
        return f"the mean loss of {WINDOW} steps is above {limit:.1f} at step {step}"
    return None
