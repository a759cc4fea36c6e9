"""``state_space_dual`` on a GPU: what autograd sees of the Triton kernels, and the forward's launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.state_space_dual.gpu.backward import NAMES, Backward
from ssm_tune.ops.state_space_dual.gpu.chunks import chunk_outputs
from ssm_tune.ops.state_space_dual.gpu.layout import OUTPUTS, WALK, Layout, Limits
from ssm_tune.ops.state_space_dual.gpu.steps import step_sizes
from ssm_tune.ops.state_space_dual.gpu.walks import walk_states


def scan(
    x: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor | None, dt_bias: Tensor | None,
    initial_state: Tensor | None, state_offset: Tensor | None, output_offset: Tensor | None, lengths: Tensor | None,
    limits: Limits, want_final: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """y and, where wanted, the final state."""
    x, B, C = (_readable(tensor.to(x.dtype)) for tensor in (x, B, C))
    weights = [None if w is None else w.contiguous() for w in (D, dt_bias, initial_state, state_offset, output_offset)]
    return _Scan.apply(x, dt, A_log.contiguous(), B, C, *weights, lengths, limits, want_final)


def _readable(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        *tensors, lengths, limits, want_final = arguments
        given = dict(zip(NAMES, tensors, strict=True)) | {"lengths": lengths}
        layout = Layout.of(given, limits)
        keep = any(ctx.needs_input_grad)
        y, final, made = _forward(given, layout, want_final)
        ctx.layout = layout
        ctx.save_for_backward(*given.values(), *(made if keep else ()))
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("state_space_dual")
        dy, d_final = output_grads
        names = (*NAMES, "lengths", "steps", "totals", "rests", "starts")
        given = dict(zip(names, ctx.saved_tensors, strict=True))
        wanted = {name for name, want in zip(NAMES, ctx.needs_input_grad, strict=False) if want}
        dy = torch.zeros_like(given["x"]) if dy is None else _readable(dy)
        d_final = None if d_final is None else d_final.contiguous()
        grads = Backward(given, wanted, dy, d_final, ctx.layout).run()
        return *(grads.get(name) for name in NAMES), None, None, None


def _forward(
    given: dict[str, Any], layout: Layout, want_final: bool
) -> tuple[Tensor, Tensor | None, tuple[Tensor | None, ...]]:
    """y, the final state, and what the backward needs besides the arguments: step sizes, sums of log decays, states."""
    x, dt, B, C = (given[name] for name in ("x", "dt", "B", "C"))
    steps, totals = layout.vector(x), layout.vector(x)
    rests = layout.vector(x) if layout.exact else None
    step_sizes[layout.grid_of_steps()](
        dt, given["A_log"], given["dt_bias"], given["lengths"], steps, totals, rests,
        *dt.stride(), layout.length, layout.chunks, layout.heads, *layout.limits, **layout.options_of_steps(),
    )  # fmt: skip
    starts = layout.border_states(x) if layout.chunks > 1 else None
    final = x.new_empty(layout.rows, *layout.state, dtype=torch.float32) if want_final else None
    initial = given["initial_state"]
    if starts is not None or final is not None:
        walk_states[layout.grid_of_walks()](
            x, B, steps, totals, rests, initial, starts, final,
            *x.stride()[:3], *B.stride()[:3], initial.stride(0) if initial is not None and initial.dim() == 4 else 0,
            layout.length, layout.chunks, layout.heads, layout.share, **layout.options_of(WALK),
        )  # fmt: skip
    grid, each, splits = layout.programs(OUTPUTS, x.device)
    read = starts if starts is not None else layout.only_border(initial)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    chunk_outputs[grid](
        x, B, C, given["D"], steps, totals, rests, read, given["state_offset"], given["output_offset"], y,
        *x.stride()[:3], *B.stride()[:3], *C.stride()[:3], *layout.strides(read),
        layout.length, layout.chunks, layout.heads, layout.share, each, splits,
        **layout.options_of(OUTPUTS), **layout.inner_strides(),
    )  # fmt: skip
    return y, final, (steps, totals, rests, starts)
