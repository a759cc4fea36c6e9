"""The loss on a GPU: launches, and what autograd sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.cuda.arguments import Arguments, int64s, pointers
from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import DTYPE_CODES, launch, names_memory

_THREADS = 512


class CrossEntropy(Arguments):
    """cross_entropy.cu."""

    _fields_ = (*pointers("logits", "targets", "scale", "lse", "losses", "dlogits"), *int64s("width"))


def cross_entropy_kernel(name: str, dtype: torch.dtype) -> Kernel:
    return Kernel.of(name, {"DTYPE": DTYPE_CODES[dtype]}, "cross_entropy/cross_entropy")


def _launch(name: str, columns: int, logits: Tensor, **tensors: Tensor | None) -> None:
    nothing = dict.fromkeys(("scale", "losses", "dlogits"))
    arguments = CrossEntropy(**nothing | tensors, logits=logits, width=logits.shape[1])
    kernel = cross_entropy_kernel(name, logits.dtype)
    launch(kernel, (logits.shape[0], columns, 1), _THREADS, 0, arguments, logits.device)


@names_memory("cross_entropy")
def run_forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """logits (M, V), contiguous -> each row's loss and log-sum-exp, (M,) float32."""
    losses, lse = (logits.new_empty(logits.shape[0], dtype=torch.float32) for _ in range(2))
    _launch("cross_entropy_forward", 1, logits, targets=targets, lse=lse, losses=losses)
    return losses, lse


@names_memory("cross_entropy, backward")
def run_backward(logits: Tensor, targets: Tensor, lse: Tensor, scale: Tensor) -> Tensor:
    """The gradient of ``scale`` (a float32 scalar) times the sum of the losses."""
    dlogits = torch.empty_like(logits)
    columns = -(-logits.shape[1] // (4 * _THREADS))
    _launch("cross_entropy_backward", columns, logits, targets=targets, scale=scale, lse=lse, dlogits=dlogits)
    return dlogits


class CrossEntropyLoss(torch.autograd.Function):
    """``cross_entropy``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, count: Tensor) -> Tensor:
        logits = logits.contiguous()
        losses, lse = run_forward(logits, targets)
        ctx.save_for_backward(logits, targets, lse, count)
        return losses.sum() / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("cross_entropy")
        logits, targets, lse, count = ctx.saved_tensors
        return run_backward(logits, targets, lse, (grads[0] / count).float()), None, None
