"""``cross_entropy``: the loss of label tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.backend import kernels_run

IGNORE = -100
"""Target of positions without loss."""
_PLAIN = 3
"""Times that the logits, in float32, are in memory at the worst moment of the plain backward: their logarithms, and two
gradients, of which each is made from the one before."""


def cross_entropy(logits: Tensor, targets: Tensor, count: Tensor) -> Tensor:
    """The sum over rows of ``-log softmax(logits)[target]``, divided by ``count``: a scalar, float32 at least.

    logits: (M, V); targets: (M,) int64, IGNORE for rows without loss; count: a scalar on their device.

    On a GPU one kernel each way, which reads the logits as they are: no copy in float32, no softmax in memory.
    """
    if _kernels_run(logits):
        from ssm_tune.ops.cross_entropy.cuda import CrossEntropyLoss

        loss: Tensor = CrossEntropyLoss.apply(logits, targets, count)
        return loss
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, targets, ignore_index=IGNORE, reduction="sum") / count


def bytes_at_worst(logits: Tensor) -> int:
    """What a logit takes in memory in the worst moment of the loss's backward, given logits like them."""
    return 2 * logits.itemsize if _kernels_run(logits) else _PLAIN * max(4, logits.itemsize)


def _kernels_run(logits: Tensor) -> bool:
    # as one row: there may be more label tokens than other kernels take rows
    return logits.shape[1] % 8 == 0 and kernels_run("cross_entropy", logits.unsqueeze(0), logits.shape[1])
