"""``cross_entropy`` as its equation reads, for tests."""

from __future__ import annotations

from torch import Tensor


def naive_cross_entropy(logits: Tensor, targets: Tensor, count: Tensor) -> Tensor:
    """The sum over rows of ``-log(exp(x_target) / sum of exp(x))``, divided by ``count``; negative targets count 0."""
    total = logits.new_zeros(())
    for row, target in zip(logits, targets.tolist(), strict=True):
        if target >= 0:
            shares = row.exp() / row.exp().sum()
            total = total - shares[target].log()
    return total / count
