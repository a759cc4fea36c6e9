"""CUDA graphs: work on a GPU that is captured once and replayed with one launch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import torch

Work = Callable[[], object]


class Capture(Protocol):
    """Turns work on a device into one launch: CUDA graphs, or a stand-in for them in tests."""

    def running(self) -> AbstractContextManager[None]:
        """The context in which all work runs, captured or not."""

    def __call__(self, work: Work) -> Work:
        """Capture ``work``, which may run nothing yet; what is returned replays it, on the memory that it used.

        Raises what kept the work from being captured. Earlier captures are of no use then: call ``release``.
        """

    def release(self) -> None:
        """Free the memory of all captures; none of them is replayed any more."""


class CudaCapture:
    """CUDA graphs that share one pool of memory; captured, and replayed, on a stream of their own."""

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
            # After a capture that CUDA has broken off, PyTorch leaves both of these in capture mode: dropout would fail
            # from now on, and the allocator would go on asking the graph, which therefore has to stay.
            # _cuda_endAllocateToPool is private: tried with PyTorch 2.11 and 2.13
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
    """Without Python's garbage collector, which may run at any time: freeing GPU memory, graphs or streams may do what
    a capture under way does not allow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
