"""``selective_scan``: the scan of a Mamba block with an initial state and the two offsets as arguments."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ssm_tune.ops.backend import kernels_run, mamba_ssm_runs
from ssm_tune.ops.member_rows import by_row
from ssm_tune.ops.selective_scan import cpu
from ssm_tune.ops.selective_scan.inputs import ScanInputs, check_inputs, scan_by_member, state_dtype
from ssm_tune.ops.selective_scan.update import selective_state_update

__all__ = ["ScanInputs", "selective_scan", "selective_state_update", "state_dtype"]


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
    output_final_state: bool = False,
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
        output_final_state: also return h_L, (B, D, N), differentiable, in the state's dtype.

    A, D, dt_bias, initial_state and both offsets may be those of M members, behind M (ops/member_rows.py); the kernels
    then run once for each.

    Returns y (B, L, D) in u's dtype, gated where z is given. All sums run in float32 (float64 for float64
    inputs) and every argument may require gradients; only those that do get one.

    Raises:
        ValueError: shapes or dtypes that do not belong together, named.
        KernelError: the backend was chosen by name and cannot run these tensors.
    """
    inputs = ScanInputs(u, dt, A, B, C, D, z, dt_bias, initial_state, state_offset, output_offset)
    check_inputs(inputs)
    packages_run = mamba_ssm_runs("selective_scan", u)
    on_gpu = packages_run or kernels_run("selective_scan", u, *A.shape[-2:])
    if on_gpu:
        alone = partial(selective_scan, dt_softplus=dt_softplus, output_final_state=output_final_state, log_A=log_A)
        if (joined := scan_by_member(alone, inputs)) is not None:
            return joined
        if initial_state is not None:
            inputs = inputs._replace(initial_state=by_row(initial_state, 2, u.shape[0]))
    final_state: Tensor | None
    if packages_run:
        from ssm_tune.ops.selective_scan import mamba_ssm

        y, final_state = mamba_ssm.scan(inputs, dt_softplus, log_A, output_final_state)
    elif on_gpu:
        from ssm_tune.ops.selective_scan import cuda

        y, final_state = cuda.scan(inputs, dt_softplus, log_A)
    else:
        y, final_state = cpu.scan(inputs, dt_softplus, log_A)
    if not output_final_state:
        return y
    assert final_state is not None
    return y, final_state
