"""Second derivatives: no operation here has them, and each refuses them by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def refuse_a_second_derivative(operation: str) -> None:
    """To be called in a backward. Raises NotImplementedError if its result is to be differentiated (create_graph)."""
    if torch.is_grad_enabled():
        raise NotImplementedError(f"{operation} has no second derivative")


def once_differentiable(operation: str) -> Callable[..., None]:
    """What a custom op that is a backward registers as its own backward: it raises NotImplementedError."""

    def refuse(ctx: Any, *_: Any) -> None:
        raise NotImplementedError(f"{operation} has no second derivative")

    return refuse
