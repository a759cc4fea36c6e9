"""What the hardware can do, measured: the two ceilings that the scan is compared with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ssm_tune.ops.compiler import Kernel
from ssm_tune.ops.launch import launch

_COPY_BYTES = 2**30
_ROUNDS = 4000


def microseconds(work: Callable[[Any], Any], sets: Sequence[Any], repeats: int = 7) -> float:
    """Median time of ``work`` on one of ``sets``, from replays of a CUDA graph that runs it on each of them in turn.

    Several sets that are larger together than the L2 cache keep it from flattering the time.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for inputs in sets:  # compiles, and sizes the allocator's pools
            work(inputs)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for inputs in sets:
                work(inputs)
    torch.cuda.synchronize()
    graph.replay()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(sets))
    return statistics.median(times)


def copy_rate() -> float:
    """Bytes read and written a second by an elementwise kernel over tensors far larger than the L2 cache."""
    source = torch.randn(_COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    taken = microseconds(lambda _: torch.neg(source, out=target), [None] * 3)
    return 2 * _COPY_BYTES / taken * 1e6


def exponential_rate() -> float:
    """Exponentials a second of the special-function units (ex2.approx)."""
    blocks = torch.cuda.get_device_properties("cuda").multi_processor_count * 8
    out = torch.zeros(1, device="cuda")
    kernel = Kernel.of("exponentials", {"DTYPE": 0}, "rates")
    taken = microseconds(
        lambda _: launch(kernel, (blocks, 1, 1), 256, 0, "Pii", [out.data_ptr(), _ROUNDS, 0], out.device), [None] * 3
    )
    return blocks * 256 * 8 * _ROUNDS / taken * 1e6
