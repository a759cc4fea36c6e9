"""Steps as CUDA graphs, one for each shape of a batch: one launch in place of a thousand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from ssm_tune.data.collator import Batch
from ssm_tune.ops.cuda.graph import Capture, Work
from ssm_tune.training.train_step import Step
from ssm_tune.utils.errors import UserError, first_line, origin

log = logging.getLogger(__name__)
Shape = tuple[int, int, int]
_NOTHING = Batch(torch.empty(0, dtype=torch.int64), (0, 0, 0))
"""What an update reads of a batch."""


class Graphs:
    """Runs ``step`` on batches. The first batch of a shape runs as it is, which compiles and sizes what is needed; at
    the second its work is captured, which on a GPU runs nothing, and from then on it is replayed. A shape that cannot
    be captured runs as it is for good, with one warning that says why.

    A step on a batch in one part is one graph. Otherwise each part's backward is one, and the update another; the sum
    over processes runs between them as it is.

    Between captures nothing that the step works on may move: parameters, the optimizer's state and its learning rate
    are changed in place, or ``forget`` is called.
    """

    def __init__(self, step: Step, capture: Capture) -> None:
        self.step, self.capture = step, capture
        self.captured: dict[Shape, tuple[Batch, Work]] = {}
        self.refused: dict[Shape, str] = {}
        self._seen: set[Shape] = set()

    def run(self, parts: Sequence[Batch]) -> None:
        """One step, asked for and not waited for. parts: on the CPU. Call within ``capture.running()``."""
        try:
            self._step(parts)
            return
        except torch.OutOfMemoryError:
            if not self.captured:
                raise
        # a new shape's first step runs beside the memory of all graphs: without these once more, as a step begins anew
        self.forget()
        torch.cuda.empty_cache()
        self._step(parts)

    def _step(self, parts: Sequence[Batch]) -> None:
        step = self.step
        if step.whole:
            (batch,) = parts
            self._run(batch, lambda inputs: step([inputs]))
            return
        step.begin()
        for part in parts:
            self._run(part, step.backward)
        step.reduce()
        self._run(_NOTHING, lambda _: step.update())

    def _run(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        shape = batch.shape
        if shape in self._seen and shape not in self.captured and shape not in self.refused:
            self._capture(batch, work)
        self._seen.add(shape)
        if shape in self.captured:
            inputs, replay = self.captured[shape]
            inputs.packed.copy_(batch.packed, non_blocking=True)
            replay()
        else:
            work(batch.to(self.step.model.device))

    def forget(self) -> None:
        """Give all that was captured back, with its memory."""
        self.captured.clear()
        self.refused.clear()
        self._seen.clear()
        self.capture.release()

    def _capture(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        inputs = Batch(torch.empty_like(batch.packed, device=self.step.model.device), batch.shape)
        self.step.forget_gradients()  # those of a step outside would lie in other memory
        try:
            self.captured[batch.shape] = inputs, self.capture(lambda: work(inputs))
        except (RuntimeError, UserError) as error:
            self.captured.clear()  # these are captured again
            self.capture.release()
            reason = origin(error)  # that a capture was broken off hides why
            self.refused[batch.shape] = first_line(reason)
            rows, length, labels = batch.shape
            what = f"{rows} x {length} tokens with room for {labels} label tokens" if rows else "the summed gradients"
            log.warning(
                "a step on %s cannot be captured as a CUDA graph and runs without: %s", what, first_line(reason)
            )
        self.step.forget_gradients()  # they lie in the memory that the graphs share
