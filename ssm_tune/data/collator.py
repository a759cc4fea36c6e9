"""From tokens to batches: mask the prompt, shift the labels once, pad on the right.

Terms of the protocol: an example's sequence is prefix + prompt + completion; the model's input is the sequence
without its last token; position t of the input predicts token t + 1, and only completion tokens carry the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.ops.cross_entropy import IGNORE


@dataclass(frozen=True)
class Batch:
    """A batch in one piece of memory, so that it reaches a GPU in one copy.

    packed: (B * L + 2 M + B + 1,) int64, what the properties below are views of. shape: B, L and M, the label
    positions.
    """

    packed: Tensor
    shape: tuple[int, int, int]

    @property
    def input_ids(self) -> Tensor:
        """(B, L), padded on the right."""
        rows, length, _ = self.shape
        return self.packed[: rows * length].view(rows, length)

    @property
    def positions(self) -> Tensor:
        """(M,), where in the flattened ``input_ids`` the label tokens are predicted; 0 where there are none left."""
        return self._behind(0, self.shape[2])

    @property
    def targets(self) -> Tensor:
        """(M,), the label tokens; IGNORE where there are none left."""
        return self._behind(self.shape[2], self.shape[2])

    @property
    def keys(self) -> Tensor:
        """(B,), what dropout knows each row by."""
        return self._behind(2 * self.shape[2], self.shape[0])

    @property
    def label_count(self) -> Tensor:
        """Scalar: the label tokens that the loss is the mean over; more than these where this is a part of a batch."""
        return self.packed[-1]

    def _behind(self, start: int, count: int) -> Tensor:
        """``count`` numbers from the ``start``-th behind ``input_ids``."""
        start += self.shape[0] * self.shape[1]
        return self.packed[start : start + count]

    def to(self, device: torch.device) -> Batch:
        """A copy on ``device`` (itself where it lies there), which does not wait if this one is pinned."""
        return Batch(self.packed.to(device, non_blocking=True), self.shape)


def pad_prompts(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts padded on the right with token 0, (B, L), and their lengths, (B,); both int64."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    input_ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = torch.tensor(prompt)
    return input_ids.to(device), lengths.to(device)


def collate(
    sequences: Sequence[TokenizedExample],
    pad: int,
    length: int | None = None,
    labels: int | None = None,
    pinned: bool = False,
    keys: Sequence[int] | None = None,
    label_count: int | None = None,
) -> Batch:
    """A batch on the CPU; the one place where labels are shifted.

    length: of the rows, by default the longest's. labels: room for label tokens, by default as many as there are.
    pinned: in memory that a GPU reads by itself. keys: of the rows, for dropout; zeros by default. label_count: what
    the loss is the mean over, by default the label tokens of these rows.
    """
    rows, (longest, found) = len(sequences), batch_extent(sequences)
    length, labels = length or longest, labels or found
    size = rows * length + 2 * labels + rows + 1
    batch = Batch(torch.empty(size, dtype=torch.int64, pin_memory=pinned), (rows, length, labels))
    batch.keys.copy_(torch.tensor(keys or [0] * rows))
    batch.label_count.fill_(found if label_count is None else label_count)
    batch.input_ids.fill_(pad)
    positions, targets = [0] * labels, [IGNORE] * labels
    filled = 0
    for row, sequence in enumerate(sequences):
        end = len(sequence.tokens) - 1
        start = end - sequence.labels
        batch.input_ids[row, :end] = torch.tensor(sequence.tokens[:-1])
        positions[filled : filled + sequence.labels] = range(row * length + start, row * length + end)
        targets[filled : filled + sequence.labels] = sequence.tokens[start + 1 :]
        filled += sequence.labels
    batch.positions.copy_(torch.tensor(positions))
    batch.targets.copy_(torch.tensor(targets))
    return batch


def batch_extent(sequences: Sequence[TokenizedExample]) -> tuple[int, int]:
    """Input tokens of the longest, and label tokens of all."""
    longest = max(len(sequence.tokens) for sequence in sequences) - 1
    return longest, sum(sequence.labels for sequence in sequences)


def length_bucket(longest: int, labels: int) -> tuple[int, int]:
    """The next of the few extents that batches are padded to where each new one costs a captured graph.

    Lengths: multiples of 16 up to 128, of 32 up to 256, of 64 up to 512, and so on: an eighth of the next power of
    two. Label tokens: powers of two.
    """
    step = max(16, _power_of_two(longest) // 8)
    return -(-longest // step) * step, _power_of_two(labels)


def _power_of_two(number: int) -> int:
    """The first that is not below ``number``."""
    return 1 << (number - 1).bit_length()


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Epoch ``epoch`` (from 0) reads the examples in the permutation that torch's generator draws at seed + epoch.

    Neighbouring seeds therefore share epoch orders: repeat runs with seeds that lie far apart (42, 1042, 2042).
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    return torch.randperm(count, generator=generator).tolist()


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Numbers of the examples of an epoch's batches, in ``epoch_order``; an incomplete last batch is dropped."""
    order = epoch_order(count, seed, epoch)
    return [order[start : start + batch_size] for start in range(0, count - batch_size + 1, batch_size)]
