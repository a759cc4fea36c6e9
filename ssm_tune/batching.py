"""From examples to batches: encode, mask the prompt, shift the labels once, pad on the right.

Terms of the protocol: an example's sequence is prefix + prompt + completion; the model's input is the sequence
without its last token; position t of the input predicts token t + 1, and only completion tokens carry the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example, Task

IGNORE = -100
"""Target of positions without loss."""


@dataclass(frozen=True)
class Encoded:
    """One training example in tokens: the whole sequence, and how many of its last tokens carry the loss."""

    tokens: list[int]
    labels: int


@dataclass(frozen=True)
class Batch:
    """input_ids, targets: (B, L) int64, right-padded with ``pad`` and IGNORE."""

    input_ids: Tensor
    targets: Tensor


def encode_prompts(examples: Sequence[Example], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens that decoding starts from: prefix and prompt, each encoded on its own."""
    prefixes = tokenizer.encode_batch([example.prefix for example in examples])
    prompts = tokenizer.encode_batch([example.prompt for example in examples])
    return [prefix + prompt for prefix, prompt in zip(prefixes, prompts, strict=True)]


def encode_training(examples: Sequence[Example], task: Task, tokenizer: Tokenizer) -> list[Encoded]:
    """Whole sequences with their completions, encoded apart from the prompts."""
    prompts = encode_prompts(examples, tokenizer)
    completions = tokenizer.encode_batch([task.completion(example) for example in examples])
    return [
        Encoded(prompt + completion, len(completion)) for prompt, completion in zip(prompts, completions, strict=True)
    ]


def collate(sequences: Sequence[Encoded], pad: int, device: torch.device) -> Batch:
    """Right-pad to the longest. The one place where labels are shifted."""
    length = max(len(sequence.tokens) for sequence in sequences) - 1
    input_ids = torch.full((len(sequences), length), pad)
    targets = torch.full((len(sequences), length), IGNORE)
    for row, sequence in enumerate(sequences):
        end = len(sequence.tokens) - 1
        start = end - sequence.labels
        input_ids[row, :end] = torch.tensor(sequence.tokens[:-1])
        targets[row, start:end] = torch.tensor(sequence.tokens[start + 1 :])
    return Batch(input_ids.to(device), targets.to(device))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Epoch ``epoch`` (from 0) reads the examples in the permutation that torch's generator draws at seed + epoch.

    Neighbouring seeds therefore share epoch orders: repeat runs with seeds that lie far apart (42, 1042, 2042).
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    return torch.randperm(count, generator=generator).tolist()


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Indices of each batch of an epoch; an incomplete last batch is dropped."""
    order = epoch_order(count, seed, epoch)
    for start in range(0, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]
