"""``selective_scan`` on a GPU: the custom ops that autograd sees.

The two ops take and give plain tensors, so that torch.compile and CUDA graphs see through them:

    ssm_tune::selective_scan           -> y, final state, y before its gate, states at the starts of chunks
    ssm_tune::selective_scan_backward  -> one gradient for each input, empty where none is wanted; of inputs that are
                                          slices of one tensor, memory as large as it (ops/packed_gradients.py)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import once_differentiable
from ssm_tune.ops.cuda.launch import DTYPE_CODES
from ssm_tune.ops.packed_gradients import unpack_gradients
from ssm_tune.ops.selective_scan.backward import INPUTS, allocate_backward, groups_of, run_backward
from ssm_tune.ops.selective_scan.forward import allocate_forward, run_forward
from ssm_tune.ops.selective_scan.inputs import ScanInputs
from ssm_tune.ops.selective_scan.variants import split_of

_COUNT = len(INPUTS)
_OPTIONAL = ScanInputs._field_defaults
_TENSORS = ", ".join(f"Tensor{'?' if name in _OPTIONAL else ''} {name}" for name in INPUTS)


def _run_forward(*given: Any) -> tuple[Tensor, ...]:
    return tuple(run_forward(ScanInputs(*given[:_COUNT]), *given[_COUNT:]))


def _run_backward(dout: Tensor, dfinal: Tensor | None, *given: Any) -> tuple[Tensor, ...]:
    return tuple(run_backward(dout, dfinal, ScanInputs(*given[:_COUNT]), *given[_COUNT:]))


_forward = torch.library.custom_op(
    "ssm_tune::selective_scan",
    _run_forward,
    mutates_args=(),
    device_types="cuda",
    schema=f"({_TENSORS}, bool softplus, bool log_A, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
_backward = torch.library.custom_op(
    "ssm_tune::selective_scan_backward",
    _run_backward,
    mutates_args=(),
    device_types="cuda",
    schema=f"(Tensor dout, Tensor? dfinal, {_TENSORS}, Tensor pre_gate, Tensor chunk_states, bool softplus, "
    f"bool log_A, bool[] wanted) -> ({', '.join(['Tensor'] * _COUNT)})",
)


@_forward.register_fake
def _(*given: Any) -> tuple[Tensor, ...]:
    inputs, keep = ScanInputs(*given[:_COUNT]), given[-1]
    return tuple(allocate_forward(inputs.u, inputs.A, inputs.z, keep, split_of(inputs.A.shape[1]).wide))


@_backward.register_fake
def _(dout: Tensor, dfinal: Tensor | None, *given: Any) -> tuple[Tensor, ...]:
    return tuple(allocate_backward(ScanInputs(*given[:_COUNT]), given[-1]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, pre_gate, chunk_states = output
    ctx.mark_non_differentiable(pre_gate, chunk_states)
    ctx.set_materialize_grads(False)
    ctx.flags = inputs[_COUNT : _COUNT + 2]  # softplus and log_A
    ctx.save_for_backward(*inputs[:_COUNT], pre_gate, chunk_states)


def _differentiate(ctx: Any, dout: Tensor | None, dfinal: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    *given, pre_gate, chunk_states = ctx.saved_tensors
    inputs, wanted = ScanInputs(*given), list(ctx.needs_input_grad[:_COUNT])
    if dout is None:
        dout = torch.zeros_like(inputs.u)
    returned = _backward(dout, dfinal, *inputs, pre_gate, chunk_states, *ctx.flags, wanted)
    grads = unpack_gradients(returned, groups_of(inputs, wanted))
    return (*(grad if want else None for grad, want in zip(grads, wanted, strict=True)), None, None, None)


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(once_differentiable("selective_scan"))


def scan(inputs: ScanInputs, dt_softplus: bool, log_A: bool) -> tuple[Tensor, Tensor]:
    """``selective_scan``: y in u's dtype and the final state (B, D, N), float32.

    What the backward needs is kept only where a gradient can be asked for.
    """
    dtype = inputs.u.dtype
    for x in (inputs.dt, inputs.B, inputs.C, inputs.z):
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    dtype = dtype if dtype in DTYPE_CODES else torch.float32
    given = ScanInputs(
        inputs.u.to(dtype),
        inputs.dt.to(dtype),
        inputs.A.float(),
        inputs.B.to(dtype),
        inputs.C.to(dtype),
        _weight(inputs.D),
        None if inputs.z is None else inputs.z.to(dtype),
        _weight(inputs.dt_bias),
        _weight(inputs.initial_state),
        _weight(inputs.state_offset),
        _weight(inputs.output_offset),
    )
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    y, final_state, _, _ = _forward(*given, dt_softplus, log_A, keep)
    return y.to(inputs.u.dtype), final_state


def _weight(x: Tensor | None) -> Tensor | None:
    """In a dtype that the kernels read."""
    return x if x is None or x.dtype in DTYPE_CODES else x.float()
