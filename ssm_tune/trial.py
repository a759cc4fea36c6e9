"""Steps and evaluations on random tokens of given shapes: how long they take, and whether they fit into memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from ssm_tune.batching import pad_prompts
from ssm_tune.beam import DecodeSettings
from ssm_tune.capture import Capture
from ssm_tune.decoding import generate
from ssm_tune.encoding import Encoded
from ssm_tune.loop import BLOCK, Training, TrainSettings
from ssm_tune.methods.base import Adapter
from ssm_tune.models.mamba import Mamba
from ssm_tune.workload import Batches, Shape, Workload

RATE = 1e-8
"""The learning rate of trials: what they leave in the adapter is not meant to be anything."""
SECONDS, BLOCKS = 0.4, 2
"""Measured at least, of each shape: seconds, and blocks of steps."""
FIRST, MORE = 2, 8
"""New tokens of the short trial of decoding, and how many more the long one has."""
Found = TypeVar("Found")


class DoesNotFit(Exception):
    """A batch needs more memory than there is. fits: rows of the same length that do, 0 where not even one does."""

    def __init__(self, phase: str, shape: Shape) -> None:
        super().__init__(phase, shape)
        self.phase, self.rows, self.length, self.fits = phase, shape[0], shape[1], 0


@dataclass
class Measured:
    """Milliseconds by shape, and the most memory in bytes (CUDA alone). said: why steps were not captured, if so."""

    steps: dict[Shape, float] = field(default_factory=dict)
    prefills: dict[Shape, float] = field(default_factory=dict)
    tokens: dict[Shape, float] = field(default_factory=dict)
    peak: int | None = None
    said: str = ""


def training_on_random_tokens(adapter: Adapter, shape: Shape, capture: Capture | None, pad: int = 0) -> Training:
    """A training whose batches all have one shape. shape: rows, length, label tokens of a batch."""
    rows, length, labels = shape
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(adapter.model.config.vocab_size, (2 * BLOCK * rows, length + 1), generator=generator)
    sequences = [Encoded(tokens, min(-(-labels // rows), length)) for tokens in drawn.tolist()]
    settings = TrainSettings(epochs=10**6, batch_size=rows, learning_rate=RATE, seed=0)
    training = Training(adapter, sequences, settings, pad, capture)
    adapter.model.train()
    return training


def milliseconds_a_step(training: Training, seconds: float, blocks: int) -> float:
    """The median over blocks, the making of batches and the host's reads included."""
    for _ in range(2):  # compiles, captures
        training.advance()
    times: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(times) < blocks:
        before = time.perf_counter()
        rows = training.advance()
        times.append(1e3 * (time.perf_counter() - before) / len(rows))
    return statistics.median(times)


def refused(training: Training) -> str:
    """Why its steps run without a CUDA graph, "" where they run with one or none was asked for."""
    reasons = list(training.graphs.refused.values()) if training.graphs is not None else []
    return f"not captured: {reasons[0]}" if reasons else ""


def measure(
    adapter: Adapter, work: Workload, decode: DecodeSettings, capture: Callable[[], Capture | None],
    known: Measured | None = None,
) -> Measured:  # fmt: skip
    """Times of a few of the work's shapes, the longest batches of both phases first.

    known: of the same adapter with other work; shapes that it has are not measured again.

    Raises:
        DoesNotFit: a batch of the work needs more memory than there is; it says what would fit.
    """
    found, model = known or Measured(), adapter.model
    evaluated = Batches.of(np_rows(work))
    if model.device.type == "cuda":
        release()
        torch.cuda.reset_peak_memory_stats()
    for shape in work.training.hardest():
        _fitting("training", shape, lambda s: _step(adapter, s, capture, found))
    for shape in evaluated.hardest():
        _fitting("evaluation", shape, lambda s: _evaluate(model, work.mode, s, decode, found))
    for shape in work.training.sample():
        _fitting("training", shape, lambda s: _step(adapter, s, capture, found))
    for shape in evaluated.sample():
        _fitting("evaluation", shape, lambda s: _evaluate(model, work.mode, s, decode, found))
    if model.device.type == "cuda":
        found.peak = max(found.peak or 0, int(torch.cuda.max_memory_allocated()))
    return found


def np_rows(work: Workload) -> Any:
    """The shapes of all evaluations' batches, (N, 3)."""
    import numpy as np

    return np.concatenate([one.batches.shapes for one in work.evaluations])


def release() -> None:
    """Give back what trials have left on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _fitting(phase: str, shape: Shape, work: Callable[[Shape], None]) -> None:
    """Do the work; where memory runs out, look for the rows that fit by halving them, and raise DoesNotFit."""
    if not _out_of_memory(work, shape):
        return
    failure = DoesNotFit(phase, shape)
    rows, length, extra = shape
    while rows > 1:
        rows, extra = rows // 2, max(1, extra // 2) if phase == "training" else extra
        if not _out_of_memory(work, (rows, length, extra)):
            failure.fits = rows
            break
    raise failure


def _out_of_memory(work: Callable[[Shape], None], shape: Shape) -> bool:
    """Whether the work ran out of memory; the error, which holds the tensors of its frames, is gone afterwards."""
    try:
        work(shape)
    except torch.OutOfMemoryError:
        failed = True
    else:
        failed = False
    if failed:
        release()
    return failed


def _step(adapter: Adapter, shape: Shape, capture: Callable[[], Capture | None], found: Measured) -> None:
    if shape in found.steps:
        return
    training = training_on_random_tokens(adapter, shape, capture())
    # the gate holds copies of what is trained over a run's first steps, and any batch may be among these
    copies, training.gate = training.gate, None
    try:
        found.steps[shape] = milliseconds_a_step(training, SECONDS, BLOCKS)
        found.said = found.said or refused(training)
    finally:
        training.step.forget_gradients()
        if training.graphs is not None:
            training.graphs.forget()
        del copies


def _evaluate(model: Mamba, mode: str, shape: Shape, decode: DecodeSettings, found: Measured) -> None:
    if shape in found.prefills:
        return
    rows, length, _ = shape
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(model.config.vocab_size, (rows, length), generator=generator).tolist()
    if mode == "classify":
        read = _seconds(lambda: _read_off(model, prompts))
        found.prefills[shape], found.tokens[shape] = 1e3 * read, 0.0
        return

    def seconds(tokens: int) -> float:
        # no answer may end before: what is timed is a full batch
        settings = replace(decode, max_new_tokens=tokens, min_length=length + tokens + 1)
        return _seconds(lambda: generate(model, prompts, settings))

    short = seconds(FIRST)
    token = max(0.0, seconds(FIRST + MORE) - short) / MORE
    found.prefills[shape], found.tokens[shape] = 1e3 * max(0.0, short - FIRST * token), 1e3 * token


@torch.no_grad()
def _read_off(model: Mamba, prompts: list[list[int]]) -> list[int]:
    model.eval()
    logits, _ = model.prefill(*pad_prompts(prompts, model.device))
    best: list[int] = logits.argmax(-1).tolist()
    return best


def _seconds(work: Callable[[], Found]) -> float:
    work()  # compiles
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
