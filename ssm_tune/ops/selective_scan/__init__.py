"""``selective_scan``: the scan of a Mamba block with an initial state and the two offsets as arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.backend import kernels_run, peer_runs
from ssm_tune.ops.selective_scan.cpu import SelectiveScan
from ssm_tune.ops.selective_scan.step import selective_scan_step

__all__ = ["selective_scan", "selective_scan_step", "state_dtype"]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states and sums: float64 for float64 inputs, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    initial_state: Tensor | None = None,
    state_offset: Tensor | None = None,
    output_offset: Tensor | None = None,
    return_last_state: bool = False,
    log_A: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a sequence: ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t``, ``y_t = C_t (h_t + h') + y' + D u_t``.

    Args:
        u, dt, z: (B, L, D), one floating dtype. ``dt`` may lack its bias and its softplus: see below.
            ``z``, where given, gates the output: ``y_t * silu(z_t)``.
        A: (D, N), negative for a decaying state; with ``log_A`` what the published weights hold, A_log, for which
            A = -exp(A_log).
        B, C: (B, L, N).
        D: (D,), the skip from input to output.
        dt_bias: (D,), added to ``dt``; dt_softplus: whether ``softplus`` is taken after that.
        initial_state: h_0, (D, N) for all rows or (B, D, N).
        state_offset: h', (D, N), added to the state as it is read at every step, never stored in it
            (State-offset Tuning, arXiv 2503.03499, section 4).
        output_offset: y', (D,), added to every step's output before the gate.
        return_last_state: also return h_L, (B, D, N), differentiable, in the state's dtype.

    Returns y (B, L, D) in u's dtype, gated where z is given. All sums run in float32 (float64 for float64
    inputs) and every argument may require gradients; only those that do get one.

    Raises:
        ValueError: shapes or dtypes that do not belong together, named.
    """
    _check(u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset)
    if peer_runs("selective_scan", u):
        A = -torch.exp(A.to(state_dtype(u.dtype))) if log_A else A
        from ssm_tune.ops import mamba_ssm_backend as peer

        y, last = peer.scan(u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset, dt_softplus,
                            return_last_state)  # fmt: skip
        return y if last is None else (y, last)
    if kernels_run("selective_scan", u, *A.shape):
        from ssm_tune.ops.selective_scan.cuda import scan

        y, last_state = scan(u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset, dt_softplus,
                             log_A)  # fmt: skip
        return (y, last_state) if return_last_state else y
    dtype = state_dtype(u.dtype)
    step = dt.to(dtype)
    if dt_bias is not None:
        step = step + dt_bias.to(dtype)
    if dt_softplus:
        step = F.softplus(step)
    rows, channels, states = u.shape[0], *A.shape
    if initial_state is None:
        initial_state = u.new_zeros(rows, channels, states, dtype=dtype)
    else:
        initial_state = initial_state.to(dtype).expand(rows, channels, states)
    A = -torch.exp(A.to(dtype)) if log_A else A.to(dtype)
    y, last_state = SelectiveScan.apply(u, step, A, B, C, initial_state)
    if state_offset is not None:
        y = y + torch.matmul(C.to(dtype), state_offset.to(dtype).t())
    if output_offset is not None:
        y = y + output_offset.to(dtype)
    if D is not None:
        y = y + u.to(dtype) * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, last_state) if return_last_state else y


def _check(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    state_offset: Tensor | None,
    output_offset: Tensor | None,
) -> None:
    if u.dim() != 3 or A.dim() != 2 or not u.is_floating_point():
        raise ValueError(f"selective_scan: u must be a floating (B, L, D) and A (D, N), got {_of(u)} and {_of(A)}")
    (rows, length, channels), states = u.shape, A.shape[1]
    if 0 in u.shape or states == 0:
        raise ValueError(f"selective_scan: no dimension may be empty, got u {_of(u)} and A {_of(A)}")
    per_position, per_channel = (rows, length, channels), (channels,)
    expected: list[tuple[str, Tensor | None, tuple[tuple[int, ...], ...]]] = [
        ("dt", dt, (per_position,)),
        ("z", z, (per_position,)),
        ("A", A, ((channels, states),)),
        ("B", B, ((rows, length, states),)),
        ("C", C, ((rows, length, states),)),
        ("D", D, (per_channel,)),
        ("dt_bias", dt_bias, (per_channel,)),
        ("initial_state", initial_state, ((channels, states), (rows, channels, states))),
        ("state_offset", state_offset, ((channels, states),)),
        ("output_offset", output_offset, (per_channel,)),
    ]
    for name, tensor, shapes in expected:
        if tensor is None:
            continue
        if tuple(tensor.shape) not in shapes:
            wanted = " or ".join(str(shape) for shape in shapes)
            raise ValueError(f"selective_scan: {name} must be {wanted} beside u {_of(u)}, got {_of(tensor)}")
        if tensor.device != u.device:
            raise ValueError(f"selective_scan: {name} is on {tensor.device}, u on {u.device}")


def _of(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
