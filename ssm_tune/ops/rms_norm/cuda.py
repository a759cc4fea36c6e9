"""The norm on a GPU: launches, and the custom ops that autograd sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import once_differentiable
from ssm_tune.ops.cuda.arguments import Arguments, floats, int32s, int64s, pointers
from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import DTYPE_CODES, dtype_code, launch, names_memory
from ssm_tune.ops.cuda.sums import sum_partials

_BLOCKS = 512


class Norm(Arguments):
    """rms_norm.cu."""

    _fields_ = (
        *pointers("residual", "dsum", "added", "dy", "weight", "sum", "dstream", "y", "dadded", "dweight"),
        *int64s("rows"),
        *int32s("width", "weight_type"),
        *floats("eps"),
    )


def norm_kernel(name: str, stream: torch.dtype, dtype: torch.dtype, width: int, added: bool, weight: bool) -> Kernel:
    """stream: the residual's dtype; dtype: that of y and of what is added; weight: whether its gradient is made."""
    macros = {
        "DTYPE": DTYPE_CODES[dtype],
        "WIDE_STREAM": int(stream == torch.float32),
        "PARTS": -(-width // 1024),
        "HAS_ADDED": int(added),
        "D_WEIGHT": int(weight),
    }
    return Kernel.of(name, macros, "rms_norm/rms_norm")


def _launch(kernel: Kernel, blocks: int, stream: Tensor, weight: Tensor, eps: float, **tensors: Tensor | None) -> None:
    nothing = dict.fromkeys(("dsum", "added", "dy", "sum", "dstream", "y", "dadded", "dweight"))
    arguments = Norm(
        **nothing | tensors,
        residual=stream,
        weight=weight,
        rows=_rows(stream),
        width=stream.shape[-1],
        weight_type=dtype_code(weight),
        eps=eps,
    )
    launch(kernel, (blocks, 1, 1), 256, 64, arguments, stream.device)


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


@names_memory("rms_norm")
def run_forward(
    residual: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm``: y in ``dtype``, and the sum in the residual's dtype, empty where nothing is added."""
    residual, added = residual.contiguous(), None if added is None else added.to(dtype).contiguous()
    y = torch.empty_like(residual, dtype=dtype)
    total = torch.empty_like(residual) if added is not None else residual.new_empty(0)
    kernel = norm_kernel("norm_forward", residual.dtype, dtype, residual.shape[-1], added is not None, False)
    _launch(kernel, min(_rows(residual), 65535), residual, weight, eps, added=added, sum=total, y=y)
    return y, total


@names_memory("rms_norm, backward")
def run_backward(
    dy: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, eps: float, has_added: bool, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of residual, added and weight that are ``wanted``, empty where not.

    dtotal: the gradient that reaches the sum from elsewhere. total: the sum that was normed.
    """
    want_residual, want_added, want_weight = wanted
    dy, total, dtotal = dy.contiguous(), total.contiguous(), None if dtotal is None else dtotal.contiguous()
    blocks = min(_rows(total), _BLOCKS if want_weight else 65535)
    # what is not wanted is empty, and a tensor of its own: an op's results may not be one tensor twice
    dresidual, dadded, dweight = (
        x.new_empty(x.shape if want else 0) for x, want in zip((total, dy, weight), wanted, strict=True)
    )
    partial = total.new_empty(blocks, total.shape[-1], dtype=torch.float32) if want_weight else None
    kernel = norm_kernel("norm_backward", total.dtype, dy.dtype, total.shape[-1], has_added, want_weight)
    dstream, dadded_or_none = dresidual if want_residual else None, dadded if want_added else None
    _launch(
        kernel, blocks, total, weight, eps, dsum=dtotal, dy=dy, dstream=dstream, dadded=dadded_or_none, dweight=partial
    )
    if partial is not None:
        sum_partials([(partial, dweight)])
    return dresidual, dadded, dweight


_forward = torch.library.custom_op(
    "ssm_tune::rms_norm",
    run_forward,
    mutates_args=(),
    device_types="cuda",
    schema="(Tensor residual, Tensor? added, Tensor weight, float eps, ScalarType dtype) -> (Tensor, Tensor)",
)
_backward = torch.library.custom_op(
    "ssm_tune::rms_norm_backward",
    run_backward,
    mutates_args=(),
    device_types="cuda",
    schema="(Tensor dy, Tensor? dtotal, Tensor total, Tensor weight, float eps, bool has_added, bool[] wanted) -> "
    "(Tensor, Tensor, Tensor)",
)


@_forward.register_fake
def _(residual: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    like = residual.new_empty(residual.shape)
    return like.to(dtype) if like.dtype != dtype else like, residual.new_empty(
        residual.shape if added is not None else 0
    )


@_backward.register_fake
def _(
    dy: Tensor, dtotal: Tensor | None, total: Tensor, weight: Tensor, eps: float, has_added: bool, wanted: list[bool]
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape if want else 0) for x, want in zip((total, dy, weight), wanted, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    residual, added, weight, ctx.eps, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.has_added = added is not None
    ctx.save_for_backward(output[1] if added is not None else residual, weight)


def _differentiate(ctx: Any, dy: Tensor | None, dtotal: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:3])
    if dy is None:  # only the sum was used
        return (dtotal if wanted[0] else None, dtotal if wanted[1] else None, None, None, None)
    grads = _backward(dy, dtotal if ctx.has_added else None, *ctx.saved_tensors, ctx.eps, ctx.has_added, wanted)
    return (*(grad if want else None for grad, want in zip(grads, wanted, strict=True)), None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(once_differentiable("rms_norm"))


def norm(
    residual: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The norm in ``dtype``, and the residual stream after the sum."""
    y, total = _forward(residual, added, weight, eps, dtype)
    return y, residual if added is None else total
