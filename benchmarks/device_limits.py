"""What the device can do, measured: the rates of copies and of exponentials, which the scan is compared with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ssm_tune.ops.cuda.arguments import Arguments, int32s, pointers
from ssm_tune.ops.cuda.compiler import Kernel
from ssm_tune.ops.cuda.launch import launch

EXPONENTIALS = Kernel.of("exponentials", {"DTYPE": 0}, str(Path(__file__).with_name("rates")))
_COPY_BYTES = 2**30
_ROUNDS = 4000
_SHORTEST = 3000.0
"""Microseconds of a measurement, at least."""


class Rates(Arguments):
    """The arguments of rates.cu."""

    _fields_ = (*pointers("out"), *int32s("rounds"))


def microseconds(work: Callable[[Any], Any], sets: Sequence[Any], repeats: int = 11) -> float:
    """Median time of ``work`` on one of ``sets``, from replays of a CUDA graph that runs it on each of them in turn.

    Several sets that are larger together than the L2 cache keep it from flattering the time. Each repeat lasts
    milliseconds: short ones would measure the clock.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for inputs in sets:  # compiles, and sizes the allocator's pools
            work(inputs)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for inputs in sets:
                work(inputs)
    torch.cuda.synchronize()
    return _median(graph.replay, repeats) / len(sets)


def eager_microseconds(work: Callable[[Any], Any], sets: Sequence[Any], repeats: int = 11) -> float:
    """The same with each kernel launched by itself, as a program without CUDA graphs runs it."""

    def once() -> None:
        for inputs in sets:
            work(inputs)

    return _median(once, repeats) / len(sets)


def _median(once: Callable[[], Any], repeats: int) -> float:
    """Microseconds of one ``once``, warm."""
    once()
    rounds = max(1, int(_SHORTEST / _elapsed(once, 1)))
    return statistics.median(_elapsed(once, rounds) for _ in range(repeats))


def _elapsed(once: Callable[[], Any], rounds: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(rounds):
        once()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / rounds


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
    taken = microseconds(
        lambda _: launch(EXPONENTIALS, (blocks, 1, 1), 256, 0, Rates(out=out, rounds=_ROUNDS), out.device),
        [None] * 3,
    )
    return blocks * 256 * 8 * _ROUNDS / taken * 1e6
