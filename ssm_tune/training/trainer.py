"""Training of one adapter. Knows methods and tasks by their base protocols alone."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

from torch import Tensor

from ssm_tune.data.collator import Batch, batch_extent, collate, length_bucket
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.methods.adapter import Adapter
from ssm_tune.ops.cuda.graph import Capture
from ssm_tune.ops.keyed_dropout import row_key
from ssm_tune.training.determinism import deterministic_algorithms
from ssm_tune.training.distributed import SINGLE_PROCESS, ProcessGroup, micro_batches
from ssm_tune.training.graphed_step import GraphedTrainStep, Shape
from ssm_tune.training.learning_rate import rate_factor
from ssm_tune.training.position import BatchOrder, Position, Schedule, StepExamples, TrainResult
from ssm_tune.training.sanity_checks import CHECKED_STEPS, TrainabilityCheck, divergence
from ssm_tune.training.settings import TrainSettings, total_steps
from ssm_tune.training.train_step import TrainStep, round_to_9_digits
from ssm_tune.training.warmup import WarmUp
from ssm_tune.utils.errors import Diverged
from ssm_tune.utils.progress import Progress

READ_EVERY = 16
"""With CUDA graphs the host reads losses after at most so many steps: each read leaves the GPU idle for a moment."""
SATURATED_LOSS, SATURATED_STEPS = 1e-6, 10
"""The official code stops training when the loss stays this low for this many steps."""


class Trainer:
    """The state of a training: everything that the next step depends on, and the result so far.

    pad_id: the token that fills batches. capture: makes CUDA graphs of steps; batches are then padded to a few shapes,
    and losses are read after up to ``READ_EVERY`` steps. None: every step is launched eagerly and read. micro_batch:
    examples computed at a time; None: all that this process has of a batch. group: the processes that share each batch.
    These change results by rounding at most. deterministic: refuse operations that add in no fixed order. check:
    whether to run the trainability check, which compares with the parameters as they are now; so ``load`` comes after.
    """

    def __init__(
        self,
        adapter: Adapter,
        sequences: Sequence[TokenizedExample],
        settings: TrainSettings,
        pad_id: int,
        capture: Capture | None = None,
        micro_batch: int | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
        *,
        deterministic: bool = False,
        check: bool = True,
    ) -> None:
        self.adapter, self.sequences, self.settings, self.pad_id = adapter, sequences, settings, pad_id
        steps_per_epoch, steps = total_steps(len(sequences), settings)
        self.warmup = WarmUp(adapter, steps)
        self.schedule = Schedule(self.warmup.steps, steps, steps_per_epoch)
        self.read_every = 1 if capture is None else READ_EVERY
        self.rows = micro_batches(settings.batch_size, micro_batch, group)
        self.step = TrainStep(
            adapter.model,
            [(factor, [adapter.optimized[name] for name in names]) for factor, names in adapter.rate_groups.items()],
            max_grad_norm=settings.max_grad_norm,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            read_every=READ_EVERY,
            asynchronous=capture is not None,
            accumulation_steps=len(self.rows),
            group=group,
        )
        self.graphs = None if capture is None else GraphedTrainStep(self.step, capture)
        self.deterministic = deterministic
        self.current_shape: Shape | None = None  # while steps run: that of their largest micro batch
        self.position, self.result = Position(), TrainResult()
        self.checked = check
        self.check = TrainabilityCheck(adapter) if self._checking else None
        self._order = BatchOrder(len(sequences), settings.batch_size, settings.seed)
        self._unread: list[tuple[Position, float, int]] = []  # of each step: position, learning rate, tokens

    @property
    def finished(self) -> bool:
        return self.position.step == self.schedule.last or self.result.stopped is not None

    @property
    def _checking(self) -> bool:
        """Whether the next step is one of those that the trainability check looks at."""
        since = self.position.step - self.warmup.steps
        return self.checked and 0 <= since < min(CHECKED_STEPS, self.schedule.training)

    @property
    def evaluation_due(self) -> bool:
        """Whether an evaluation comes between the last step and the next."""
        step = self.position.step
        return self.schedule.evaluated_after(step) or (self.finished and step > self.warmup.steps)

    def train_steps(self) -> list[dict[str, float]]:
        """Run one step, or with CUDA graphs up to ``READ_EVERY``, and read the results: one row for each step.

        With graphs the steps end where something may follow a step: an evaluation, the end, or the stop of a saturated
        loss. Steps after one that diverged leave no trace.

        Raises:
            Diverged: as ``sanity_checks.divergence`` decides.
            UserError: the trainability check fails.
        """
        running = self.graphs.capture.running() if self.graphs is not None else nullcontext()
        with running, deterministic_algorithms() if self.deterministic else nullcontext():
            for index in range(self._steps_until_read()):
                self._queue_step(index)
            return self.read_steps()

    def _steps_until_read(self) -> int:
        if self.check is not None:
            return 1
        until = [self.read_every, self.schedule.until_pause(self.position.step)]
        if self.settings.stop_when_saturated:
            until.append(SATURATED_STEPS - self.position.saturated)
        return min(until)

    def begin_step(self, index: int = 0) -> StepExamples:
        """Move on to the next step, whose gradients come next; ``index``: its number since the last read."""
        settings, position = self.settings, self.position
        numbers = self._order.next(position)
        sequences = [self.sequences[i] for i in numbers]
        done, steps = self.schedule.of_stage(position.step), self.schedule.training
        learning_rate = settings.learning_rate * rate_factor(settings.lr_schedule, settings.lr_warmup, done, steps)
        self.step.prepare(learning_rate, index)
        position.step += 1
        keys = [row_key(settings.seed, position.step, number) for number in numbers]
        tokens = sum(len(sequence.tokens) - 1 for sequence in sequences)
        self._unread.append((dataclasses.replace(position), learning_rate, tokens))
        return StepExamples(sequences, keys)

    def finish_step(self) -> None:
        """Check the gradients while the trainability check lasts, and update the parameters."""
        if self.check is not None and math.isfinite(self.step.loss):
            self.check.after_backward(self.position.step)
        self.step.update()

    def _queue_step(self, index: int) -> None:
        """Queue the next step; ``index``: its number since the last read."""
        examples, device = self.begin_step(index), self.adapter.model.device
        batch = [self.micro_batch(examples, rows) for rows in self.rows]
        self.current_shape = max((part.shape for part in batch), key=lambda shape: shape[0] * shape[1])
        if self.graphs is not None and self.check is None:
            self.graphs.run(batch)
        else:
            self.step.compute_gradients([part.to(device) for part in batch])
            self.finish_step()

    def micro_batch(self, examples: StepExamples, rows: slice, length: int | None = None) -> Batch:
        """Some rows of a step's batch, collated on the CPU. length: to pad to; by default the longest's, or the bucket
        of a graph's."""
        sequences, keys = examples
        graphed = self.graphs is not None
        extents = batch_extent(sequences[rows])
        if length is not None:
            extents = length, extents[1]
        elif graphed:
            extents = length_bucket(*extents)
        return collate(
            sequences[rows],
            self.pad_id,
            *extents,
            keys=keys[rows],
            label_count=sum(sequence.labels for sequence in sequences),
            pinned=graphed and self.adapter.model.device.type == "cuda",
        )

    def read_steps(self) -> list[dict[str, float]]:
        """The rows of the steps since the last read, after the checks that are due. Raises as ``train_steps``."""
        rows = self._read()
        self.current_shape = None
        if self.check is not None and not self._checking:
            self.check.finish(sum(row["learning_rate"] > 0 for row in self.result.steps[self.warmup.steps :]))
            self.check = None
        if self.position.step == self.warmup.steps:
            self.warmup.finish(self.step)
            self.position = Position(step=self.position.step)
            self.check = TrainabilityCheck(self.adapter) if self._checking else None
        return rows

    def _read(self) -> list[dict[str, float]]:
        result, unread, self._unread = self.result, self._unread, []
        first, saturated = len(result.steps), self.position.saturated
        for (position, learning_rate, tokens), (loss, norm) in zip(unread, self.step.read(len(unread)), strict=True):
            self.position = position
            row: dict[str, float] = {
                "step": position.step,
                "epoch": position.epoch + 1,
                "loss": loss,
                "learning_rate": round_to_9_digits(learning_rate),
                "grad_norm": norm,
                "tokens": tokens,
            }
            result.tokens += tokens
            result.steps.append(row)
            if reason := divergence(result.steps, self.adapter.model.config.vocab_size):
                raise Diverged(reason)
            saturated = saturated + 1 if loss <= SATURATED_LOSS else 0
            position.saturated = saturated
        if (
            self.settings.stop_when_saturated
            and saturated >= SATURATED_STEPS
            and self.position.step > self.warmup.steps
        ):
            result.stopped = f"loss at or below {SATURATED_LOSS} for {saturated} steps, at step {self.position.step}"
        return result.steps[first:]

    def state(self) -> dict[str, Any]:
        """Position and result, as JSON holds them (losses may be NaN or infinite)."""
        return {"position": dataclasses.asdict(self.position), **dataclasses.asdict(self.result)}

    def tensors(self) -> dict[str, Tensor]:
        """The adapter's state and the optimizer's moments (not copies)."""
        state = self.adapter.state | self.adapter.warmup_only
        moments = self.step.moments(self._optimized_names())
        found: dict[str, Tensor] = {f"parameters/{name}": value for name, value in state.items()}
        return found | {f"optimizer/{name}": value for name, value in moments.items()}

    def _optimized_names(self) -> list[str]:
        return list(chain.from_iterable(self.adapter.rate_groups.values()))

    def load(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Resume from what ``state`` and ``tensors`` returned; no tensors are needed where training is over."""
        values = dict(state)
        self.position = Position(**values.pop("position"))
        self.result = TrainResult(**values)
        if not self._checking:
            self.check = None
        if not tensors:
            return
        parts: dict[str, dict[str, Tensor]] = {"parameters": {}, "optimizer": {}}
        for path, tensor in tensors.items():
            parts[path.split("/", 1)[0]][path.split("/", 1)[1]] = tensor
        self.free_graphs()  # the optimizer's state moves in memory
        self.adapter.load_tensors(parts["parameters"], "the checkpoint")
        self.step.load_moments(self._optimized_names(), parts["optimizer"])
        if self._checking and self.check is None:
            self.check = TrainabilityCheck(self.adapter)

    def free_graphs(self) -> None:
        """Free the memory of CUDA graphs, if there are any; the next steps capture them again."""
        if self.graphs is not None:
            self.graphs.reset()

    def fit(
        self,
        evaluate: Callable[[int, int], None],
        progress: Progress,
        on_steps: Callable[[list[dict[str, float]]], None] = lambda rows: None,
    ) -> None:
        """Run all steps that are left.

        evaluate: called with epoch and step after each epoch and at the end; first of all where training resumes at
        such a place. on_steps: called with the rows of the steps that were read together, after their effects are in
        this object; not for those where one diverges. Raises what they and ``train_steps`` raise.
        """
        progress_shown = False
        while True:
            if self.evaluation_due:
                if progress_shown:
                    progress.stop()
                progress_shown = False
                self.evaluate_now(evaluate)
            if self.finished:
                return
            if not progress_shown:
                progress.start("training", self.schedule.last, done=self.position.step)
                self.adapter.model.train()
                progress_shown = True
            rows = self._timed_steps()
            pace = f"{self.result.tokens / self.result.seconds:,.0f} tokens/s"
            progress.advance(len(rows), f"loss {rows[-1]['loss']:.3f}  lr {rows[-1]['learning_rate']:.1e}  {pace}")
            on_steps(rows)

    def evaluate_now(self, evaluate: Callable[[int, int], None]) -> None:
        """Call ``evaluate`` with epoch and step, where an evaluation is due."""
        if self.finished:
            self.free_graphs()  # the evaluation needs the memory
        evaluate(self.schedule.epochs(self.position.step), self.position.step)

    def _timed_steps(self) -> list[dict[str, float]]:
        begun = time.perf_counter()
        try:
            return self.train_steps()
        except Diverged:
            self.free_graphs()
            raise
        finally:
            self.result.seconds += time.perf_counter() - begun
