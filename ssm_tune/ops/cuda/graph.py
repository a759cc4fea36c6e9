"""CUDA graphs: work on a GPU that is captured once and replayed with one launch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import torch

Work = Callable[[], object]


class Capture(Protocol):
    """What makes one launch of much work on a device."""

    def running(self) -> AbstractContextManager[None]:
        """Within it all work runs, captured or not."""

    def __call__(self, work: Work) -> Work:
        """What does ``work`` again whenever it is called, on the memory that ``work`` names; may run nothing yet.

        Raises whatever keeps it from that. What was captured before is of no use then: ``release`` follows.
        """

    def release(self) -> None:
        """Give the memory of all that was captured back; none of it is called any more."""


class CudaCapture:
    """CUDA graphs that share their memory; captured, and run, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._broken: list[torch.cuda.CUDAGraph] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def __call__(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        generator = torch.cuda.default_generators[index]
        random = generator.clone_state()
        try:
            graphing = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
            with _no_garbage_collection(), graphing:
                work()
        except BaseException:
            # PyTorch leaves both of these inside a capture that CUDA has broken off: dropout would fail from now on,
            # and the allocator would go on asking the graph, which therefore has to stay
            generator.graphsafe_set_state(random)
            with suppress(RuntimeError):  # it was not broken off, but ended
                torch._C._cuda_endAllocateToPool(index, self._pool)
            self._broken.append(graph)
            raise
        return graph.replay

    def release(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python may collect garbage at any time, and what then gives back GPU memory, graphs or streams may do what a
    capture under way does not allow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
