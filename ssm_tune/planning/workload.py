"""What a run will compute, counted before anything runs: steps, tokens, and the shapes of all its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssm_tune.data.collator import epoch_batches, length_bucket
from ssm_tune.data.tokenization import tokenize_prompts
from ssm_tune.generation.batches import batch_shapes
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example, Roles, Task
from ssm_tune.training.settings import TrainSettings, total_steps

Shape = tuple[int, int, int]
"""Rows, padded length, and label tokens of the batch (training) or steps that its decoding takes (evaluation)."""


@dataclass(frozen=True)
class Batches:
    """Batches of one kind. shapes: (N, 3) as ``Shape`` has them; counts: (N,), how many there are of each."""

    shapes: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, shapes: NDArray[np.int64]) -> Batches:
        return cls(*np.unique(shapes, axis=0, return_counts=True))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Padded tokens of each."""
        sizes: NDArray[np.int64] = self.shapes[:, 0] * self.shapes[:, 1]
        return sizes

    @property
    def padded(self) -> int:
        """Tokens of all, the padding included."""
        return int((self.sizes * self.counts).sum())

    def largest(self) -> list[Shape]:
        """The batch with the most tokens, and the one with the most label tokens or decoding steps where that is
        another: these show whether all fit into memory."""
        rows = [max(self._rows(), key=lambda s: (s[0] * s[1], s[2])), max(self._rows(), key=lambda s: (s[2], s[1]))]
        return list(dict.fromkeys(rows))

    def typical(self) -> Shape:
        """The batch whose padded tokens are nearest to the mean."""
        mean = self.padded / self.counts.sum()
        return min(self._rows(), key=lambda s: abs(s[0] * s[1] - mean))

    def total(self, times: dict[Shape, float]) -> float:
        """The time of all batches, from the times of some shapes: by a straight line over padded tokens, fitted to this
        object's own shapes, or to all where its typical one was not timed."""
        if (typical := self.typical()) in times:
            times = {shape: times[shape] for shape in (*self.largest(), typical) if shape in times}
        sizes = [rows * length for rows, length, _ in times]
        slope, level = 0.0, max(times.values())
        if len(set(sizes)) > 1:
            slope, level = np.polyfit(sizes, list(times.values()), 1)
        return float(level * self.counts.sum() + slope * self.padded)

    @property
    def decoding_steps(self) -> int:
        """Steps that the decoding of all takes."""
        return int((self.shapes[:, 2] * self.counts).sum())

    def _rows(self) -> Iterator[Shape]:
        yield from map(tuple, self.shapes.tolist())


@dataclass(frozen=True)
class Evaluation:
    """One kind of evaluation. times: how often it comes; new_tokens: of all predictions of one, as long as the
    targets."""

    what: Literal["selection", "report", "frozen"]
    split: str
    times: int
    prompts: int
    new_tokens: int
    batches: Batches


@dataclass(frozen=True)
class Workload:
    """A run's work. steps: optimizer steps; tokens: of their inputs, without padding."""

    mode: Literal["classify", "generate"]
    steps: int
    tokens: int
    training: Batches
    evaluations: tuple[Evaluation, ...]


def training_work(
    lengths: Sequence[int], labels: Sequence[int], settings: TrainSettings, buckets: bool, warmup: int = 0
) -> tuple[int, Batches]:
    """Tokens without padding, and the batches of all steps of a training run.

    lengths: of the whole sequences, in tokens. buckets: whether batches are padded to the few extents of captured
    steps. warmup: steps of the method's warm-up, which has the training's first batches, and no more than there are.
    Raises UserError for a batch larger than the training set.
    """
    _, last = total_steps(len(lengths), settings)
    inputs, marked = np.asarray(lengths, np.int64) - 1, np.asarray(labels, np.int64)
    steps, epoch, trained, found = 0, 0, list[Any](), list[Any]()
    while steps < last:
        taken = np.array(epoch_batches(len(lengths), settings.batch_size, settings.seed, epoch)[: last - steps])
        trained.append(inputs[taken].sum(1))
        rows = np.full(len(taken), settings.batch_size)
        found.append(np.stack([rows, inputs[taken].max(1), marked[taken].sum(1)], axis=1))
        steps, epoch = steps + len(taken), epoch + 1
    counts, shapes = np.concatenate(trained), np.concatenate(found)
    tokens = int(counts.sum() + counts[:warmup].sum())
    batches = Batches.of(np.concatenate([shapes, shapes[:warmup]]))
    if buckets:
        shapes = np.array([(rows, *length_bucket(length, marks)) for rows, length, marks in batches.shapes.tolist()])
        batches = Batches.of(np.repeat(shapes, batches.counts, axis=0))
    return tokens, batches


def evaluation_work(
    examples: Sequence[Example], task: Task, tokenizer: Tokenizer, settings: DecodeSettings, cuda: bool
) -> tuple[int, Batches]:
    """New tokens of all predictions, and the batches, if each prediction is as long as its target.

    cuda: whether a GPU decodes.
    """
    prompts = [len(prompt) for prompt in tokenize_prompts(examples, tokenizer)]
    completions = tokenizer.encode_batch([task.completion(example) for example in examples])
    new_tokens = [min(len(completion), settings.max_new_tokens) for completion in completions]
    if task.mode == "classify":
        new_tokens = [0] * len(prompts)
    return sum(new_tokens), Batches.of(np.array(batch_shapes(task.mode, prompts, new_tokens, settings, cuda)))


def evaluations(
    splits: dict[str, list[Example]],
    roles: Roles,
    task: Task,
    tokenizer: Tokenizer,
    settings: DecodeSettings,
    times: int,
    frozen: bool,
    cuda: bool,
) -> tuple[Evaluation, ...]:
    """Those of a run with ``times`` evaluations on the selection split; frozen: whether it scores the base model.

    Where another split is reported, the best and the last epoch are scored on it, which may be the same: two at most.
    """
    asked: list[tuple[Literal["selection", "report", "frozen"], str, int]] = [("selection", roles.selection, times)]
    if not roles.selected_on_report and roles.report in splits:
        asked.append(("report", roles.report, min(2, times)))
    if frozen:
        asked.append(("frozen", roles.report, 1))
    counted = {split: evaluation_work(splits[split], task, tokenizer, settings, cuda) for _, split, _ in asked}
    return tuple(Evaluation(what, split, times, len(splits[split]), *counted[split]) for what, split, times in asked)
