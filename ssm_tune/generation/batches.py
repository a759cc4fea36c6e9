"""Which prompts are computed together: the rules of runs, and the shapes that the planner times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from ssm_tune.generation.settings import DecodeSettings

PROMPTS_TOGETHER = 64
"""Prompts read together, and on a CPU examples decoded together, where decode.batch_size is null."""
MOST_TOKENS, MOST_PROMPTS = 65_536, 1024
"""Padded tokens and prompts of a batch on a GPU that only gives the next token, where decode.batch_size is null."""
MOST_BEAMS = 1280
"""Beams decoded together at most on a GPU where decode.batch_size is null; beyond, a step takes longer for each beam,
too."""

Shape = tuple[int, int, int]
"""Prompts of a batch, its longest prompt in tokens, and the steps that its decoding takes."""


def length_batches(lengths: Sequence[int], size: int, most_tokens: int | None = None) -> list[list[int]]:
    """Numbers of prompts in batches of similar length, the longest first: what needs the most memory fails at once or
    never.

    lengths: in tokens. size: prompts of a batch at most; most_tokens: its tokens at most, the padding included (but
    one prompt is always a batch).
    """
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        full = not batches or len(batches[-1]) == size
        if full or (most_tokens is not None and (len(batches[-1]) + 1) * lengths[batches[-1][0]] > most_tokens):
            batches.append([])
        batches[-1].append(at)
    return batches


def next_token_batches(lengths: Sequence[int], batch_size: int | None, cuda: bool) -> list[list[int]]:
    """Batches of prompts after which one token is read off."""
    if batch_size is None and cuda:
        return length_batches(lengths, MOST_PROMPTS, MOST_TOKENS)
    return length_batches(lengths, batch_size or PROMPTS_TOGETHER)


def prompt_batches(lengths: Sequence[int], batch_size: int | None, cuda: bool) -> list[list[int]]:
    """Batches of prompts that are read together before decoding; on a CPU they are also decoded together."""
    size = batch_size or PROMPTS_TOGETHER
    return length_batches(lengths, min(size, PROMPTS_TOGETHER) if cuda else size)


def examples_together(beams: int, most_beams: int = MOST_BEAMS) -> int:
    """Examples that a GPU decodes together: the largest power of two that makes at most so many beams, at least 1."""
    return int(2 ** (max(1, most_beams // beams).bit_length() - 1))


def batch_shapes(
    mode: Literal["classify", "generate"],
    prompts: Sequence[int],
    new_tokens: Sequence[int],
    settings: DecodeSettings,
    cuda: bool,
) -> list[Shape]:
    """The shapes of all batches of an evaluation whose predictions have the given lengths.

    prompts, new_tokens: tokens of each example. On a CPU a batch is decoded until its longest prediction ends. On a GPU
    the next example takes the place of one that ended, so examples are counted in groups of as many as are decoded
    together, each of which takes the steps of its mean prediction.
    """
    if mode == "classify":
        batches = next_token_batches(prompts, settings.batch_size, cuda)
        return [(len(batch), prompts[batch[0]], 0) for batch in batches]
    if cuda:
        batches = length_batches(prompts, settings.batch_size or examples_together(settings.num_beams))
    else:
        batches = prompt_batches(prompts, settings.batch_size, cuda)
    shapes = []
    for batch in batches:
        taken = [new_tokens[at] for at in batch]
        steps = math.ceil(sum(taken) / len(taken)) if cuda else max(taken)
        shapes.append((len(batch), prompts[batch[0]], steps))
    return shapes
