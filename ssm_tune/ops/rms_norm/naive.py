"""``add_rms_norm`` as its equation reads, for tests. Zhang and Sennrich (2019), arXiv 1910.07467."""

from __future__ import annotations

from torch import Tensor


def naive_add_rms_norm(residual: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of ``residual + added`` over the last dimension, and that sum; all in the inputs' dtype."""
    total = residual if added is None else residual + added
    return total / (total.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight, total
