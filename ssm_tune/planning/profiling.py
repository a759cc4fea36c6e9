"""Steps and evaluations on random tokens of given shapes: how long they take, and whether they fit into memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch

from ssm_tune.config.schema import TrainConfig
from ssm_tune.data.collator import pad_prompts
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.generation.batches import PROMPTS_TOGETHER
from ssm_tune.generation.generate import generate
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.methods.adapter import Adapter
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops.cuda.graph import Capture
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.planning.workload import Batches, Shape, Workload
from ssm_tune.training.settings import TrainSettings
from ssm_tune.training.trainer import READ_EVERY, Trainer

RATE = 1e-8
"""The learning rate of probes: what they leave in the adapter is not meant to be anything."""
SECONDS, BLOCKS = 0.4, 2
"""Measured at least, of each shape: seconds, and blocks of steps."""
FIRST, MORE = 2, 8
"""New tokens of the short probe of decoding, and how many more the long one has."""
Found = TypeVar("Found")


class DoesNotFit(Exception):
    """A batch needs more memory than there is. fits: how many of its rows fit at a time, 0 where not even one does."""

    def __init__(self, phase: str, shape: Shape) -> None:
        super().__init__(phase, shape)
        self.phase, self.rows, self.length, self.fits = phase, shape[0], shape[1], 0


@dataclass
class Measured:
    """Milliseconds by shape, and the most memory in bytes (CUDA alone). note: why steps were not captured, if so."""

    steps: dict[Shape, float] = field(default_factory=dict)
    prefills: dict[Shape, float] = field(default_factory=dict)
    tokens: dict[Shape, float] = field(default_factory=dict)
    start: float = 0.0
    """of an evaluation, before its first token"""
    peak: int | None = None
    note: str = ""

    @property
    def decoding_step(self) -> float:
        """Milliseconds of a step of decoding: the mean of the batches that were timed."""
        return statistics.fmean(self.tokens.values()) if self.tokens else 0.0


def training_on_random_tokens(
    adapter: Adapter, shape: Shape, capture: Capture | None, micro_batch: int | None = None
) -> Trainer:
    """A training whose batches all have one shape. shape: rows, length, label tokens of a batch."""
    rows, length, labels = shape
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(adapter.model.config.vocab_size, (2 * READ_EVERY * rows, length + 1), generator=generator)
    sequences = [TokenizedExample(tokens, min(-(-labels // rows), length)) for tokens in drawn.tolist()]
    settings = TrainSettings.of(TrainConfig(epochs=10**6), RATE, rows, seed=0)
    training = Trainer(adapter, sequences, settings, 0, capture, micro_batch, check=False)
    adapter.model.train()
    return training


def milliseconds_a_step(training: Trainer, seconds: float, blocks: int) -> float:
    """The median over blocks, the making of batches and the host's reads included."""
    for _ in range(2):  # compiles, captures
        training.train_steps()
    times: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(times) < blocks:
        before = time.perf_counter()
        rows = training.train_steps()
        times.append(1e3 * (time.perf_counter() - before) / len(rows))
    return statistics.median(times)


def why_not_captured(training: Trainer) -> str:
    """Why steps run without a CUDA graph; "" where they run with one, or without one as the settings say."""
    reasons = list(training.graphs.fallback.values()) if training.graphs is not None else []
    return f"not captured: {reasons[0]}" if reasons else ""


def measure(
    adapter: Adapter,
    work: Workload,
    decode: DecodeSettings,
    capture: Callable[[], Capture | None],
    known: Measured | None = None,
    micro_batch: int | None = None,
) -> Measured:
    """Times of the largest batches of both phases, which come first, and of a typical one of each.

    known: of the same adapter with other work; shapes that it has are not measured again.

    Raises:
        DoesNotFit: a batch of the work needs more memory than there is; it says what would fit.
    """
    found, model = known or Measured(), adapter.model
    evaluated = Batches.of(np.concatenate([one.batches.shapes for one in work.evaluations]))
    if model.device.type == "cuda":
        free_memory()
        torch.cuda.reset_peak_memory_stats()

    def train(shape: Shape) -> None:
        at_a_time = micro_batch or shape[0]
        fewer = [rows for rows in range(at_a_time - 1, 0, -1) if shape[0] % rows == 0]
        _fitting("training", shape, at_a_time, fewer, lambda rows: _step(adapter, shape, capture, rows, found))

    def evaluate(shape: Shape) -> None:
        fewer = [shape[0] >> halvings for halvings in range(1, shape[0].bit_length())]
        _fitting(
            "evaluation", shape, shape[0], fewer, lambda rows: _evaluate(model, work.mode, rows, shape, decode, found)
        )

    for shape in work.training.largest():
        train(shape)
    for shape in evaluated.largest():
        evaluate(shape)
    train(work.training.typical())
    evaluate(evaluated.typical())
    if model.device.type == "cuda":
        found.peak = max(found.peak or 0, int(torch.cuda.max_memory_allocated()))
    return found


def _fitting(phase: str, shape: Shape, rows: int, fewer: list[int], work: Callable[[int], None]) -> None:
    """Do the work with ``rows`` at a time; where memory runs out, look for fewer that fit, and raise DoesNotFit."""
    if not _out_of_memory(work, rows):
        return
    failure = DoesNotFit(phase, (rows, *shape[1:]))
    failure.fits = next((few for few in fewer if not _out_of_memory(work, few)), 0)
    raise failure


def _out_of_memory(work: Callable[[int], None], rows: int) -> bool:
    """Whether the work ran out of memory; the error, which holds the tensors of its frames, is gone afterwards."""
    try:
        work(rows)
    except torch.OutOfMemoryError:
        failed = True
    else:
        failed = False
    if failed:
        free_memory()
    return failed


def _step(
    adapter: Adapter, shape: Shape, capture: Callable[[], Capture | None], at_a_time: int, found: Measured
) -> None:
    if shape in found.steps:
        return
    training = training_on_random_tokens(adapter, shape, capture(), at_a_time)
    # in a run's first steps the trainability check holds copies, and any batch may be among these
    copies = [parameter.detach().clone() for parameter in adapter.parameters()]
    try:
        found.steps[shape] = milliseconds_a_step(training, SECONDS, BLOCKS)
        found.note = found.note or why_not_captured(training)
    finally:
        training.step.zero_gradients()
        training.free_graphs()
        del copies


def _evaluate(model: Mamba, mode: str, rows: int, shape: Shape, decode: DecodeSettings, found: Measured) -> None:
    if shape in found.prefills:
        return
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(model.config.vocab_size, (rows, shape[1]), generator=generator).tolist()
    size = rows if mode == "classify" else PROMPTS_TOGETHER
    prefill, token = _seconds(lambda: _read_off(model, prompts, size)), 0.0
    if mode == "generate":
        # no prediction may end before: what is timed is a full batch
        settings = replace(decode, min_length=10**6, batch_size=min(decode.batch_size or rows, rows))
        short, long = (
            _seconds(lambda: generate(model, prompts, replace(settings, max_new_tokens=tokens)))  # noqa: B023
            for tokens in (FIRST, FIRST + MORE)
        )
        token = max(0.0, long - short) / MORE
        found.start = max(found.start, 1e3 * (short - prefill - FIRST * token))
    found.prefills[shape], found.tokens[shape] = 1e3 * prefill, 1e3 * token


@torch.no_grad()
def _read_off(model: Mamba, prompts: list[list[int]], size: int) -> None:
    model.eval()
    for start in range(0, len(prompts), size):
        logits, _ = model.prefill(*pad_prompts(prompts[start : start + size], model.device))
        logits.argmax(-1).tolist()


def _seconds(work: Callable[[], Found]) -> float:
    if torch.cuda.is_available():
        work()  # compiles
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
