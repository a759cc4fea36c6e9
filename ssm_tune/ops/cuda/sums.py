"""Sums over the partial results that kernels leave, in a fixed order: no atomics, the same bits every time."""

from __future__ import annotations

import ctypes

from torch import Tensor

from ssm_tune.ops.cuda.arguments import Arguments, int32s, int64s, pointers
from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import dtype_code, launch

MOST_JOBS = 8
_KERNEL = Kernel.of("sum_partials", {"DTYPE": 0}, "cuda/sums")


class Job(Arguments):
    """sums.cu: one of the sums of a launch."""

    _fields_ = (*pointers("partial", "out"), *int64s("size"), *int32s("count", "dtype", "run", "step"))


class Sums(ctypes.Structure):
    """sums.cu: all of them."""

    _fields_ = (("jobs", Job * MOST_JOBS),)


def sum_partials(jobs: list[tuple[Tensor, Tensor]]) -> None:
    """For each (partial, out): out = the sum of ``partial`` (float32) over its first dimension; at most 8 in a call.

    out: contiguous, or (B, L, n) slices of a contiguous tensor's last dimension; float32, bfloat16 or float16.
    """
    if not jobs:
        return
    sums = Sums()
    for number, (partial, out) in enumerate(jobs):
        run, step = (0, 0) if out.is_contiguous() else (out.shape[-1], out.stride(-2))
        sums.jobs[number] = Job(
            partial=partial,
            out=out,
            size=out.numel(),
            count=partial.shape[0],
            dtype=dtype_code(out),
            run=run,
            step=step,
        )
    largest = max(out.numel() for _, out in jobs)
    launch(_KERNEL, (min(-(-largest // 128), 65535), len(jobs), 1), 128, 0, sums, jobs[0][1].device)
