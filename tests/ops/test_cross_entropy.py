"""The loss against its definition, and rows that have none."""

from __future__ import annotations

import torch

from ssm_tune.ops.cross_entropy import IGNORE, bytes_at_worst, cross_entropy
from ssm_tune.ops.cross_entropy.naive import naive_cross_entropy


def test_it_is_the_negative_logarithm_of_the_targets_share() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, IGNORE, 0, 6, IGNORE])
    expected = naive_cross_entropy(logits, targets, torch.tensor(4))
    loss = cross_entropy(logits, targets, torch.tensor(4))
    torch.testing.assert_close(loss, expected)
    mine, plain = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(mine, plain)


def test_it_is_taken_in_float32() -> None:
    logits = torch.randn(3, 8).bfloat16()
    loss = cross_entropy(logits, torch.tensor([1, 2, 3]), torch.tensor(3))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.float(), torch.tensor([1, 2, 3]), torch.tensor(3)))
    assert bytes_at_worst(logits) == 12
