"""Training steps as CUDA graphs, one for each batch shape: one launch in place of about a thousand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from ssm_tune.data.collator import Batch
from ssm_tune.ops.cuda.graph import Capture, Work
from ssm_tune.training.train_step import TrainStep
from ssm_tune.utils.errors import UserError, first_line, origin
from ssm_tune.utils.phases import CLOCK

log = logging.getLogger(__name__)
Shape = tuple[int, int, int]
"""Of a micro batch: rows, tokens, and label tokens, padding included."""
_NO_BATCH = Batch(torch.empty(0, dtype=torch.int64), (0, 0, 0))
"""Given to the graph of the optimizer's update, which reads no batch."""


class GraphedTrainStep:
    """Runs a ``TrainStep`` as CUDA graphs.

    The first batch of a shape runs eagerly, which compiles kernels and allocates workspaces. The second is captured
    (on a GPU, capturing runs nothing) and replayed, as are all that follow. A shape that cannot be captured always runs
    eagerly; one warning says why, and ``fallback`` keeps the reason.

    With one micro batch and one process a step is one graph. Otherwise the backward of each micro batch is a graph and
    the optimizer's update another; the all-reduce runs between them, outside graphs.

    Between captures nothing that the step works on may move in memory: change parameters, the optimizer's state and the
    learning rate in place, or call ``reset``.
    """

    def __init__(self, step: TrainStep, capture: Capture) -> None:
        self.step, self.capture = step, capture
        self.captured: dict[Shape, tuple[Batch, Work]] = {}
        self.fallback: dict[Shape, str] = {}
        self._seen: set[Shape] = set()

    def run(self, batch: Sequence[Batch]) -> None:
        """Queue one step. batch: its micro batches, on the CPU. Call within ``capture.running()``."""
        try:
            self._step(batch)
            return
        except torch.OutOfMemoryError:
            if not self.captured:
                raise
        # the eager step of a new shape needs memory that the graphs hold: free it and repeat the step from its start
        self.reset()
        torch.cuda.empty_cache()
        self._step(batch)

    def _step(self, batch: Sequence[Batch]) -> None:
        step = self.step
        if step.is_single_graph:
            (micro_batch,) = batch
            self._run(micro_batch, lambda inputs: step([inputs]))
            return
        step.begin()
        for micro_batch in batch:
            self._run(micro_batch, step.backward)
        step.all_reduce()
        self._run(_NO_BATCH, lambda _: step.update())

    def _run(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        shape = batch.shape
        if shape in self._seen and shape not in self.captured and shape not in self.fallback:
            self._capture(batch, work)
        self._seen.add(shape)
        if shape in self.captured:
            inputs, replay = self.captured[shape]
            inputs.packed.copy_(batch.packed, non_blocking=True)
            replay()
        else:
            work(batch.to(self.step.model.device))

    def reset(self) -> None:
        """Discard all graphs and free their memory."""
        self.captured.clear()
        self.fallback.clear()
        self._seen.clear()
        self.capture.release()

    def _capture(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        inputs = Batch(torch.empty_like(batch.packed, device=self.step.model.device), batch.shape)
        self.step.zero_gradients()  # an eager step's gradients lie outside the graphs' memory
        try:
            with CLOCK.phase("capture"):
                self.captured[batch.shape] = inputs, self.capture(lambda: work(inputs))
        except (RuntimeError, UserError) as error:
            self.captured.clear()  # these are captured again
            self.capture.release()
            reason = first_line(origin(error))  # the first error says why; the last only that the capture ended
            self.fallback[batch.shape] = reason
            rows, length, labels = batch.shape
            what = f"{rows} x {length} tokens with room for {labels} label tokens" if rows else "the summed gradients"
            log.warning("a step on %s cannot be captured as a CUDA graph and runs without: %s", what, reason)
        self.step.zero_gradients()  # they lie in the memory that the graphs share
