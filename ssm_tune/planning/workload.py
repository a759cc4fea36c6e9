"""What a cell will compute, counted before anything runs: steps, tokens, and the shapes of all its batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssm_tune.data.collator import epoch_order, length_bucket
from ssm_tune.data.tokenization import tokenize_prompts
from ssm_tune.generation.generate import BATCH_SIZE
from ssm_tune.generation.predict import MOST_PROMPTS, MOST_TOKENS, shortest_first
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example, Roles, Task
from ssm_tune.training.settings import TrainSettings, total_steps

Shape = tuple[int, int, int]
"""Rows, padded length, and label tokens of the batch (training) or new tokens that its decoding takes (evaluation)."""
QUANTILES = (1.0, 0.8, 0.5, 0.2, 0.0)
"""Of the batches by padded tokens: those that are tried."""
BEAMS = 1280
"""Beams that a GPU decodes at once where the settings leave it open (decode.batch_size)."""


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

    def hardest(self) -> list[Shape]:
        """The batch with the most tokens, and the one with the most label or new tokens where that is another."""
        rows = [max(self._rows(), key=lambda s: (s[0] * s[1], s[2])), max(self._rows(), key=lambda s: (s[2], s[1]))]
        return list(dict.fromkeys(rows))

    def sample(self) -> list[Shape]:
        """A few shapes from the longest to the shortest."""
        order = np.argsort(self.sizes, kind="stable")
        reached = np.cumsum(self.counts[order]) / self.counts.sum()
        rows = list(self._rows())
        chosen = [rows[order[min(int(np.searchsorted(reached, q)), len(rows) - 1)]] for q in QUANTILES]
        found: dict[int, Shape] = {}
        for shape in [self.hardest()[0], *chosen]:
            found.setdefault(shape[0] * shape[1], shape)
        return list(found.values())

    def total(self, costs: dict[Shape, float]) -> float:
        """The sum over all batches of a cost known for some: straight lines between them, by padded tokens."""
        known = sorted((shape[0] * shape[1], cost) for shape, cost in costs.items())
        each = np.interp(self.sizes, [size for size, _ in known], [cost for _, cost in known])
        return float((each * self.counts).sum())

    def steps_of(self, costs: dict[Shape, float]) -> float:
        """As ``total``, of a cost for each new token that a batch's decoding takes."""
        return Batches(self.shapes, self.counts * self.shapes[:, 2]).total(costs)

    def _rows(self) -> Iterator[Shape]:
        yield from map(tuple, self.shapes.tolist())


@dataclass(frozen=True)
class Evaluation:
    """One kind of evaluation. times: how often it comes; new_tokens: of all answers of one, as long as the targets."""

    what: Literal["selection", "report", "frozen"]
    split: str
    times: int
    prompts: int
    new_tokens: int
    batches: Batches


@dataclass(frozen=True)
class Workload:
    """A cell's work. steps: optimizer steps; tokens: of their inputs, without padding."""

    mode: Literal["classify", "generate"]
    steps: int
    tokens: int
    training: Batches
    evaluations: tuple[Evaluation, ...]


def training_work(
    lengths: Sequence[int], labels: Sequence[int], settings: TrainSettings, buckets: bool
) -> tuple[int, Batches]:
    """Tokens without padding, and the batches of all steps, as ``loop.Training`` takes them.

    lengths: of the whole sequences, in tokens. buckets: whether batches are padded to the few extents of captured
    steps. Raises UserError for a batch larger than the training set.
    """
    _, last = total_steps(len(lengths), settings)
    inputs, marked = np.asarray(lengths, np.int64) - 1, np.asarray(labels, np.int64)
    size, per_pass = settings.batch_size, len(lengths) // settings.batch_size
    tokens, found = 0, []
    for epoch in range(math.ceil(last / per_pass)):
        order = np.asarray(epoch_order(len(lengths), settings.seed, epoch))[: per_pass * size].reshape(-1, size)
        order = order[: last - epoch * per_pass]
        tokens += int(inputs[order].sum())
        rows = np.full(len(order), size)
        found.append(np.stack([rows, inputs[order].max(1), marked[order].sum(1)], axis=1))
    batches = Batches.of(np.concatenate(found))
    if buckets:
        shapes = np.array([(rows, *length_bucket(length, marks)) for rows, length, marks in batches.shapes.tolist()])
        batches = Batches.of(np.repeat(shapes, batches.counts, axis=0))
    return tokens, batches


def evaluation_work(
    examples: Sequence[Example], task: Task, tokenizer: Tokenizer, settings: DecodeSettings, cuda: bool
) -> tuple[int, Batches]:
    """New tokens of all answers, and the batches: as long as the targets would make them, for nothing else is known.

    cuda: whether a GPU decodes, which fills the place of an answer that is done (a batch takes its mean answer's
    tokens); a CPU decodes batches to the end of their longest answers.
    """
    prompts = [len(prompt) for prompt in tokenize_prompts(examples, tokenizer)]
    completions = tokenizer.encode_batch([task.completion(example) for example in examples])
    answers = [min(len(completion), settings.max_new_tokens) for completion in completions]
    if task.mode == "classify":
        answers = [0] * len(prompts)
        most = (MOST_PROMPTS, MOST_TOKENS) if cuda and settings.batch_size is None else (settings.batch_size, None)
        chunks = shortest_first(prompts, most[0] or BATCH_SIZE, most[1])
    else:
        size = settings.batch_size or (max(1, BEAMS // settings.num_beams) if cuda else BATCH_SIZE)
        order = sorted(range(len(prompts)), key=lambda at: prompts[at], reverse=True)
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
    return sum(answers), Batches.of(np.array([_shape(chunk, prompts, answers, cuda) for chunk in chunks]))


def _shape(chunk: list[int], prompts: list[int], answers: list[int], cuda: bool) -> Shape:
    taken = [answers[at] for at in chunk]
    steps = math.ceil(sum(taken) / len(taken)) if cuda else max(taken)
    return len(chunk), max(prompts[at] for at in chunk), steps


def evaluations(
    splits: dict[str, list[Example]], roles: Roles, task: Task, tokenizer: Tokenizer, settings: DecodeSettings,
    times: int, frozen: bool, cuda: bool,
) -> tuple[Evaluation, ...]:  # fmt: skip
    """Those of a run with ``times`` evaluations on the selection split; frozen: whether it scores the frozen model.

    Where another split is reported, the best and the last epoch answer it, which may be one and the same: two at most.
    """
    asked: list[tuple[Literal["selection", "report", "frozen"], str, int]] = [("selection", roles.selection, times)]
    if not roles.selected_on_report and roles.report in splits:
        asked.append(("report", roles.report, min(2, times)))
    if frozen:
        asked.append(("frozen", roles.report, 1))
    counted = {split: evaluation_work(splits[split], task, tokenizer, settings, cuda) for _, split, _ in asked}
    return tuple(Evaluation(what, split, times, len(splits[split]), *counted[split]) for what, split, times in asked)
