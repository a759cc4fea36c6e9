"""A model's answers to a split's examples: one token read off, or decoded. What is answered already is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ssm_tune.data.collator import pad_prompts
from ssm_tune.data.tokenization import tokenize_prompts
from ssm_tune.generation.generate import BATCH_SIZE, generate_batches
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example
from ssm_tune.utils.errors import Diverged
from ssm_tune.utils.progress import Progress

MOST_TOKENS, MOST_PROMPTS = 65_536, 1024
"""Padded tokens, and prompts, of a batch that is read off on a GPU, where decode.batch_size is left open."""


@dataclass
class Answered:
    """An evaluation under way. outputs: by the example's number in its split; tokens: generated for them."""

    outputs: dict[int, str] = field(default_factory=dict)
    tokens: int = 0


class Watch(Protocol):
    """Who may end an evaluation, or keep how far it is, by raising or saving in these calls."""

    def poll(self) -> None:
        """Called for every token that is decoded, or every few; nothing has changed that is worth keeping."""

    def tick(self) -> None:
        """Called after every batch, whose answers are in ``Answered``."""


class Unwatched:
    """A ``Watch`` that does nothing."""

    def poll(self) -> None: ...
    def tick(self) -> None: ...


@torch.no_grad()
def classify(
    model: Mamba,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    settings: DecodeSettings,
    progress: Progress,
    label: str,
    clean_up: bool = True,
    answered: Answered | None = None,
    watch: Watch | None = None,
) -> tuple[list[str], int]:
    """The most likely next token after every prompt, over the whole vocabulary, as text; nothing is generated.

    Goes on from ``answered``, and fills it. Raises Diverged where logits are not finite.
    """
    answered, watch = answered or Answered(), watch or Unwatched()
    prompts = tokenize_prompts(examples, tokenizer)
    size, tokens = settings.batch_size or BATCH_SIZE, None
    if settings.batch_size is None and model.device.type == "cuda":
        size, tokens = MOST_PROMPTS, MOST_TOKENS
    model.eval()
    progress.start(label, len(examples), done=len(answered.outputs))
    for rows in shortest_first([len(prompt) for prompt in prompts], size, tokens):
        if all(i in answered.outputs for i in rows):
            continue
        logits, _ = model.prefill(*pad_prompts([prompts[i] for i in rows], model.device), keep=False)
        finite, *best = torch.cat([logits.isfinite().all().long().view(1), logits.argmax(-1)]).tolist()  # one wait
        if not finite:
            raise Diverged(f"logits are not finite after a prompt of {label}")
        for i, token in zip(rows, best, strict=True):
            answered.outputs[i] = tokenizer.decode([token], clean_up)
        progress.advance(len(rows), "")
        watch.tick()
    progress.stop()
    return [answered.outputs[i] for i in range(len(examples))], 0


def shortest_first(lengths: Sequence[int], size: int, tokens: int | None = None) -> list[list[int]]:
    """Numbers of prompts in batches alike in length: ``size`` in each, or as many as make ``tokens`` with padding."""
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        count = len(batches[-1]) + 1 if batches else 0
        if not batches or count > size or (tokens is not None and count * lengths[at] > tokens):
            batches.append([])
        batches[-1].append(at)
    return batches


def decode(
    model: Mamba,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    settings: DecodeSettings,
    progress: Progress,
    label: str,
    clean_up: bool = True,
    answered: Answered | None = None,
    watch: Watch | None = None,
) -> tuple[list[str], int]:
    """The model's answer to every example, as text, and the number of tokens generated.

    Goes on from ``answered``, and fills it. Raises Diverged where logits are not finite.
    """
    kept, watching = answered or Answered(), watch or Unwatched()
    prompts = tokenize_prompts(examples, tokenizer)
    done = len(kept.outputs)
    progress.start(label, len(examples), done=done)

    def advance(finished: int, total: int) -> None:
        nonlocal done
        progress.advance(finished - done, "")
        done = finished

    def keep(chosen: list[int], outputs: list[list[int]]) -> None:
        for i, tokens in zip(chosen, outputs, strict=True):
            # of a batch that was done in part, with another decode.batch_size, some come a second time
            kept.tokens += 0 if i in kept.outputs else len(tokens)
            kept.outputs[i] = tokenizer.decode(tokens, clean_up)
        watching.tick()

    try:
        generate_batches(
            model, prompts, settings, keep, skip=set(kept.outputs), on_progress=advance, poll=watching.poll
        )
    except FloatingPointError as error:
        raise Diverged(str(error)) from error
    progress.stop()
    return [kept.outputs[i] for i in range(len(examples))], kept.tokens
