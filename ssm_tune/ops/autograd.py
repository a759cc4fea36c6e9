"""Gradients of gradients: none of the operations here has them, and all say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def refuse_a_second_derivative(operation: str) -> None:
    """For a backward under way. Raises NotImplementedError where its result is to be differentiated (create_graph)."""
    if torch.is_grad_enabled():
        raise NotImplementedError(f"{operation} has no second derivative")


def once_differentiable(operation: str) -> Callable[..., None]:
    """What a custom op that is a backward registers as its own autograd: the same, once it is differentiated."""

    def refuse(ctx: Any, *_: Any) -> None:
        raise NotImplementedError(f"{operation} has no second derivative")

    return refuse
