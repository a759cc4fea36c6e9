"""``state_space_dual``: the scan of a Mamba-2 block with an initial state and the two offsets as arguments.

    B  batch     L  length     H  heads     P  channels a head     N  states a channel     G  groups of B and C

Source: Dao and Gu 2024, "Transformers are SSMs" (arXiv 2405.21060), section 6, the SSD algorithm.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.member_rows import by_row, count_members, over_time, run_by_member
from ssm_tune.ops.state_space_dual.checks import PARAMETER_DIMS, check_scan, state_dtype, triton_kernels_run
from ssm_tune.ops.state_space_dual.cpu import StateSpaceDual, read_offset, step_sizes
from ssm_tune.ops.state_space_dual.update import state_space_dual_update

__all__ = ["state_space_dual", "state_space_dual_update"]


def state_space_dual(
    x: Tensor,
    dt: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    initial_state: Tensor | None = None,
    state_offset: Tensor | None = None,
    output_offset: Tensor | None = None,
    lengths: Tensor | None = None,
    output_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a sequence: ``h_t = exp(A s_t) h_{t-1} + s_t x_t B_t^T``, ``y_t = (h_t + h') C_t + y' + D x_t``.

    Per head; A = -exp(A_log) and the step size s_t = softplus(dt_t + dt_bias), clamped to ``dt_limit``.

    Args:
        x: (B, L, H, P), a floating dtype.
        dt: (B, L, H), step sizes before bias, softplus and limits.
        A_log: (H,).
        B, C: (B, L, G, N); heads i H / G to (i + 1) H / G - 1 read group i.
        D: (H,), the skip from input to output.
        dt_bias: (H,); dt_limit: the least and the largest step size.
        initial_state: h_0, (H, P, N) for all rows or (B, H, P, N).
        state_offset: h', (H, P, N), added to the state as it is read at every position, never stored in it
            (State-offset Tuning, arXiv 2503.03499, section 4).
        output_offset: y', (H, P), added to every position's output.
        lengths: (B,) int64, real positions of right-padded rows; the state stays as it is in those that follow.
        output_final_state: also return the state after the last position, (B, H, P, N), differentiable, in float32
            (float64 for float64 inputs).

    A_log, D, dt_bias, initial_state and both offsets may be those of M members, behind M (ops/member_rows.py); the
    kernels then run once for each.

    Returns y (B, L, H, P) in x's dtype. All sums run in float32 (float64 for float64 inputs); every floating argument
    may require gradients, and only those that do get one.

    Raises:
        ValueError: shapes, dtypes or limits that do not belong together, named.
        KernelError: a backend is forced that cannot take these tensors; the reason is named.
    """
    batch: dict[str, Any] = {"x": x, "dt": dt, "B": B, "C": C, "initial_state": initial_state, "lengths": lengths}
    parameters: dict[str, Any] = {
        "A_log": A_log,
        "D": D,
        "dt_bias": dt_bias,
        "state_offset": state_offset,
        "output_offset": output_offset,
    }
    check_scan(limits=dt_limit, **batch, **parameters)
    if initial_state is not None:
        batch["initial_state"] = by_row(initial_state, 3, x.shape[0])
    run = _run_kernels if triton_kernels_run("state_space_dual", x, B.shape[3]) else _run_plain
    return run(batch, parameters, dt_limit, output_final_state)


def _run_kernels(
    batch: dict[str, Any], parameters: dict[str, Any], limits: tuple[float, float], want_final: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """The Triton kernels; where a parameter is each member's own, once for each member."""
    from ssm_tune.ops.state_space_dual.gpu.forward import scan

    by_dims = {name: (value, PARAMETER_DIMS[name]) for name, value in parameters.items()}
    if (members := count_members(by_dims)) is None:
        y, final = scan(**batch, **parameters, limits=limits, want_final=want_final)
        return y if final is None else (y, final)
    start = batch["initial_state"]
    if start is not None:
        batch = batch | {"initial_state": start.expand(batch["x"].shape[0], *start.shape[-3:])}
    alone = partial(state_space_dual, dt_limit=limits, output_final_state=want_final)
    joined: Tensor | tuple[Tensor, Tensor] = run_by_member(alone, members, batch, by_dims)
    return joined


def _run_plain(
    batch: dict[str, Any], parameters: dict[str, Any], limits: tuple[float, float], want_final: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Products of matrices in plain PyTorch; sums run in float32 or float64."""
    x, dt, B, C, initial_state, lengths = batch.values()
    A_log, D, dt_bias, state_offset, output_offset = parameters.values()
    rows, wide = x.shape[0], state_dtype(x.dtype)
    step = step_sizes(dt, None if dt_bias is None else over_time(dt_bias, 1, rows), limits, wide)
    if lengths is not None:
        real = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
        step = step.where(real.unsqueeze(2), 0)
    shape = (rows, *x.shape[2:], B.shape[3])
    start = step.new_zeros(shape) if initial_state is None else initial_state.to(wide).expand(shape)
    log_decay = step * over_time(-torch.exp(A_log.to(wide)), 1, rows)
    y, final = StateSpaceDual.apply(x, step, log_decay, B, C, start)
    if state_offset is not None:
        y = y + read_offset(state_offset.to(wide), C.to(wide))
    if output_offset is not None:
        y = y + over_time(output_offset.to(wide), 2, rows)
    if D is not None:
        y = y + x.to(wide) * over_time(D.to(wide), 1, rows).unsqueeze(-1)
    y = y.to(x.dtype)
    return (y, final) if want_final else y
