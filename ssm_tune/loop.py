"""Training and decoding of one cell. Knows the base protocols alone: no task or method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.batching import IGNORE, collate, epoch_batches, pad_prompts
from ssm_tune.beam import DecodeSettings
from ssm_tune.decoding import generate
from ssm_tune.encoding import Encoded, encode_prompts
from ssm_tune.errors import UserError
from ssm_tune.gate import STEPS, TrainingGate
from ssm_tune.methods.base import Adapter
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example

WINDOW = 20
"""Steps whose mean loss is held against the divergence limit."""
SATURATED_LOSS, SATURATED_STEPS = 1e-6, 10
"""The official code stops training when the loss stays this low for this long."""


class Diverged(Exception):
    """The loss is no number any more, or worse than guessing by far."""


class Progress(Protocol):
    """Where the loop tells how far it is."""

    def start(self, label: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, note: str) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class TrainSettings:
    """batch_size in examples; max_steps in optimizer steps (None: all epochs); saturation: stop when saturated."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    max_steps: int | None = None
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    stop_when_saturated: bool = False


@dataclass
class Trained:
    """What training tells afterwards. steps: a row an optimizer step, as steps.jsonl keeps it."""

    steps: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    """without the evaluations between epochs"""
    stopped: str | None = None
    """why training ended before its last step, if it did"""
    on_step: Callable[[dict[str, float]], None] = field(default=lambda row: None, repr=False)
    """told of every row, for a logger"""


def total_steps(examples: int, settings: TrainSettings) -> tuple[int, int]:
    """(steps between evaluations, all steps), as the official code counts them.

    Both count the incomplete batch that the loader drops, so that a run goes a few batches into one epoch more.
    """
    if examples < settings.batch_size:
        raise UserError(f"train.batch_size={settings.batch_size} is more than the {examples} training examples")
    per_epoch = math.ceil(examples / settings.batch_size)
    total = settings.epochs * per_epoch
    return per_epoch, total if settings.max_steps is None else min(total, settings.max_steps)


def label_loss(model: Mamba, input_ids: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the batch's label tokens; logits are made at their positions alone.

    input_ids, targets: (B, L) int64; the loss is a float32 scalar.
    """
    hidden = model.hidden(input_ids)
    labelled = targets != IGNORE
    logits = model.logits(hidden[labelled])
    return F.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, targets[labelled])


def train(
    adapter: Adapter,
    sequences: Sequence[Encoded],
    settings: TrainSettings,
    pad: int,
    evaluate: Callable[[int, int], None],
    progress: Progress,
    trained: Trained,
) -> None:
    """Train the adapter's parameters, filling ``trained`` on the way.

    ``evaluate(epoch, step)`` is called after each epoch and at the end.

    Raises:
        Diverged: the loss is not finite, or its mean over WINDOW steps is twice that of a uniform guess.
        UserError: a declared parameter does not train, or a frozen one does (the training gate).
    """
    model = adapter.model
    per_epoch, last = total_steps(len(sequences), settings)
    parameters = list(adapter.parameters.values())
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps,
        weight_decay=settings.weight_decay,
    )  # fmt: skip
    torch.manual_seed(settings.seed)  # dropout
    gate: TrainingGate | None = TrainingGate(adapter)
    model.train()
    step, epoch, saturated, begun = 0, 0, 0, time.perf_counter()
    progress.start("training", last)
    while step < last:
        for indices in epoch_batches(len(sequences), settings.batch_size, settings.seed, epoch):
            # linear decay without warm-up: step k (from 0) of T takes (1 - k/T) of the rate
            rate = settings.learning_rate * (1 - step / last)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = collate([sequences[i] for i in indices], pad, model.device)
            loss = label_loss(model, batch.input_ids, batch.targets)
            step += 1
            value = loss.item()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if gate is not None and math.isfinite(value):
                gate.after_backward(step)
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm))
            tokens = sum(len(sequences[i].tokens) - 1 for i in indices)
            trained.tokens += tokens
            trained.steps.append(
                {"step": step, "epoch": epoch + 1, "loss": value, "learning_rate": rate, "grad_norm": norm,
                 "tokens": tokens}
            )  # fmt: skip
            trained.on_step(trained.steps[-1])
            if reason := _divergence(trained, model.config.vocab_size):
                trained.seconds += time.perf_counter() - begun
                raise Diverged(reason)
            optimizer.step()
            if gate is not None and step == min(STEPS, last):
                gate.finish(step)
                gate = None
            seconds = trained.seconds + time.perf_counter() - begun
            progress.advance(1, f"loss {value:.3f}  lr {rate:.1e}  {trained.tokens / seconds:,.0f} tokens/s")
            saturated = saturated + 1 if value <= SATURATED_LOSS else 0
            if settings.stop_when_saturated and saturated >= SATURATED_STEPS:
                trained.stopped = f"loss at or below {SATURATED_LOSS} for {SATURATED_STEPS} steps, at step {step}"
            if step % per_epoch == 0 or step == last or trained.stopped:
                trained.seconds += time.perf_counter() - begun
                progress.stop()
                evaluate(math.ceil(step / per_epoch), step)
                model.train()
                begun = time.perf_counter()
                if step < last and not trained.stopped:
                    progress.start("training", last, done=step)
            if step == last or trained.stopped:
                return
        epoch += 1


def _divergence(trained: Trained, vocabulary: int) -> str | None:
    """Why the run has gone astray, if it has."""
    recent = [row["loss"] for row in trained.steps[-WINDOW:]]
    step = int(trained.steps[-1]["step"])
    if not math.isfinite(recent[-1]) or not math.isfinite(trained.steps[-1]["grad_norm"]):
        return f"the loss or its gradient is not finite at step {step}"
    limit = 2 * math.log(vocabulary)  # a uniform guess costs log V
    if len(recent) == WINDOW and sum(recent) / WINDOW > limit:
        return f"the mean loss of {WINDOW} steps is above {limit:.1f} at step {step}"
    return None


@torch.no_grad()
def classify(
    model: Mamba,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    settings: DecodeSettings,
    progress: Progress,
    label: str,
    clean_up: bool = True,
) -> tuple[list[str], int]:
    """The most likely next token after every prompt, over the whole vocabulary, as text; nothing is generated.

    Raises Diverged where logits are not finite.
    """
    prompts = encode_prompts(examples, tokenizer)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # rows of a batch alike in length
    answers = [""] * len(prompts)
    model.eval()
    progress.start(label, len(examples))
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        logits, _ = model.prefill(*pad_prompts([prompts[i] for i in rows], model.device))
        if not bool(logits.isfinite().all()):
            raise Diverged(f"logits are not finite after a prompt of {label}")
        for i, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
            answers[i] = tokenizer.decode([token], clean_up)
        progress.advance(len(rows), "")
    progress.stop()
    return answers, 0


def decode(
    model: Mamba,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    settings: DecodeSettings,
    progress: Progress,
    label: str,
    clean_up: bool = True,
) -> tuple[list[str], int]:
    """The model's answer to every example, as text, and the number of tokens generated.

    Raises Diverged where logits are not finite.
    """
    prompts = encode_prompts(examples, tokenizer)
    progress.start(label, len(examples))
    done = 0

    def advance(finished: int, total: int) -> None:
        nonlocal done
        progress.advance(finished - done, "")
        done = finished

    try:
        tokens = generate(model, prompts, settings, on_progress=advance)
    except FloatingPointError as error:
        raise Diverged(str(error)) from error
    progress.stop()
    return [tokenizer.decode(row, clean_up) for row in tokens], sum(len(row) for row in tokens)
