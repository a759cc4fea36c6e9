"""From tokens to batches: mask the prompt, shift the labels once, pad on the right.

Terms of the protocol: an example's sequence is prefix + prompt + completion; the model's input is the sequence
without its last token; position t of the input predicts token t + 1, and only completion tokens carry the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_tune.encoding import Encoded

IGNORE = -100
"""Target of positions without loss."""


@dataclass(frozen=True)
class Batch:
    """input_ids, targets: (B, L) int64, right-padded with ``pad`` and IGNORE."""

    input_ids: Tensor
    targets: Tensor


def pad_prompts(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts padded on the right with token 0, (B, L), and their lengths, (B,); both int64."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    input_ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.tensor(prompt)
    return input_ids.to(device), lengths.to(device)


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
