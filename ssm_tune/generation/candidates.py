"""The best continuations of all beams, in an order that depends on the scores alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def first_candidates(log_probs: Tensor, beam_scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best continuations of each example, best first, equal ones by ascending flattened index.

    log_probs: (N, n, V), or (N, 1, V) where the n beams share one row, in float32 or narrower; beam_scores:
    (N, n) float32; k <= n * V. Returns scores (N, k) float32, which are log_probs + beam_scores rounded once,
    and indices (N, k) int64 into the flattened (n, V).

    ``torch.topk`` leaves the order of equal elements open, and bf16 log-probabilities are full of them. So
    cut each row into blocks and take the k blocks with the highest maxima, earlier blocks first among equals.
    They hold the result, for every block before a rejected one has an element that precedes all of the
    rejected one's. Two small stable sorts do the rest, and only the maxima read all of log_probs.
    """
    beams = beam_scores.shape[1]
    vocab = log_probs.shape[-1]
    width = max(1, math.isqrt(vocab // 2))  # makes the two sorts about equally long
    blocks = -(-vocab // width)
    whole = vocab - vocab % width
    maxima = log_probs[..., :whole].unflatten(-1, (-1, width)).amax(-1)
    if whole < vocab:
        maxima = torch.cat([maxima, log_probs[..., whole:].amax(-1, keepdim=True)], dim=-1)
    maxima = (maxima + beam_scores.unsqueeze(2)).flatten(1)  # (N, n * blocks); rounding keeps the order
    order = torch.sort(maxima, dim=1, descending=True, stable=True).indices
    chosen = order[:, :k].sort(dim=1).values  # in index order again, for the next stable sort to keep
    beam = chosen // blocks
    offset = torch.arange(width, device=chosen.device)
    token = (chosen % blocks * width).unsqueeze(2) + offset  # (N, k, width)
    beyond = token >= vocab
    token = token.clamp_(max=vocab - 1)
    source = beam.unsqueeze(2) if log_probs.shape[1] == beams else 0
    scores = log_probs.flatten(1).gather(1, (token + source * vocab).flatten(1)).view_as(token)
    scores = scores + beam_scores.gather(1, beam).unsqueeze(2)
    # What lies beyond the vocabulary must come after everything else, a forbidden token's -inf included.
    lowest = torch.finfo(torch.float32).min
    scores = scores.clamp_(min=lowest).masked_fill_(beyond, -math.inf).flatten(1)
    best, position = torch.sort(scores, dim=1, descending=True, stable=True)
    best = best[:, :k].masked_fill(best[:, :k] <= lowest, -math.inf)
    return best, (beam.unsqueeze(2) * vocab + token).flatten(1).gather(1, position[:, :k])
