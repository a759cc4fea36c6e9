"""Greedy and beam search for one example, written plainly from the published rules; the tests' oracle.

Slow on purpose: every candidate of every beam is listed and sorted, a beam is the list of its tokens, and
what the model says is asked for by that list. Nothing is shared with ``ssm_tune.generation.beam_search``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

Tokens = tuple[int, ...]
Logits = Callable[[Tokens], torch.Tensor]
"""The logits (V,) after the prompt and these generated tokens."""


@dataclass
class Step:
    """What one step compared."""

    scores: dict[Tokens, float]
    """Every candidate, by the tokens it would make of its beam."""
    order: list[Tokens]
    """The candidates that were looked at, best first."""
    stop: tuple[float, float] | None = None
    """The worst hypothesis and what an open beam could still reach, once there are enough hypotheses."""
    offered: dict[Tokens, float] = field(default_factory=dict)
    """Scores of all hypotheses so far, refused ones included."""
    held: list[Tokens] = field(default_factory=list)
    """The hypotheses that are kept, best first."""


def greedy(
    logits: Logits,
    prompt_length: int,
    *,
    min_length: int,
    limit: int,
    eos_id: int,
    log: list[Step] | None = None,
) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < limit:
        row = logits(tuple(tokens)).tolist()
        if prompt_length + len(tokens) < min_length:
            row[eos_id] = -math.inf
        token = row.index(max(row))
        if log is not None:
            log.append(Step({(*tokens, t): score for t, score in enumerate(row)}, [(*tokens, token)]))
        if token == eos_id:
            break
        tokens.append(token)
    return tokens


def beam_search(
    logits: Logits,
    prompt_length: int,
    *,
    num_beams: int,
    min_length: int,
    limit: int,
    eos_id: int,
    length_penalty: float = 1.0,
    log: list[Step] | None = None,
) -> list[int]:
    beams: list[tuple[np.float32, Tokens]] = [(np.float32(0), ())]
    beams += [(np.float32(-1e9), ())] * (num_beams - 1)
    hypotheses: list[tuple[float, Tokens]] = []  # oldest first
    offered: dict[Tokens, float] = {}
    worst = math.inf
    done = False

    def store(total: np.float32, tokens: Tokens, generated: int) -> None:
        nonlocal worst
        score = float(total) / generated**length_penalty
        offered[tokens] = score
        if len(hypotheses) < num_beams or score > worst:
            hypotheses.append((score, tokens))
            if len(hypotheses) > num_beams:
                lowest = min(score for score, _ in hypotheses)
                for position, (score, _) in enumerate(hypotheses):
                    if score == lowest:
                        del hypotheses[position]
                        break
            worst = min(score for score, _ in hypotheses)

    for generated in range(1, limit + 1):
        candidates = []
        for beam, (total, tokens) in enumerate(beams):
            log_probs = torch.log_softmax(logits(tokens), dim=0).float().cpu().numpy().copy()
            if prompt_length + len(tokens) < min_length:
                log_probs[eos_id] = -math.inf
            for token, log_prob in enumerate(log_probs):
                candidates.append((np.float32(log_prob + total), beam, token))
        candidates.sort(key=lambda c: (-c[0], c[1], c[2]))
        scores = {(*beams[beam][1], token): float(total) for total, beam, token in reversed(candidates)}
        candidates = candidates[: 2 * num_beams]

        new_beams, order = [], []
        for rank, (total, beam, token) in enumerate(candidates):
            history = beams[beam][1]
            order.append((*history, token))
            if token == eos_id:
                if rank < num_beams:
                    store(total, history, generated)
            elif len(new_beams) < num_beams:
                new_beams.append((total, (*history, token)))
            if len(new_beams) == num_beams:
                break
        step = Step(scores, order)
        beams = new_beams
        if len(hypotheses) >= num_beams:
            attainable = float(max(total for total, _, _ in candidates)) / generated**length_penalty
            step.stop = (worst, attainable)
            done = worst >= attainable
        if not done and generated == limit:
            for total, tokens in beams:
                store(total, tokens, limit)
        step.offered = dict(offered)
        step.held = [tokens for _, tokens in sorted(hypotheses, key=lambda h: h[0])][::-1]
        if log is not None:
            log.append(step)
        if done:
            break

    best = max(score for score, _ in hypotheses)
    return list([tokens for score, tokens in hypotheses if score == best][-1])


def table(seed: int, vocab: int, eos_id: int, boost: int, dtype: torch.dtype, levels: int = 17) -> Logits:
    """Logits as a function of the tokens so far: quarters from -2 up, so that ties abound; EOS raised.

    ``levels`` different values: 17 reach to 2, 1 makes all tokens but EOS alike. Every value is exact in
    bfloat16, and nothing but hashlib decides them.
    """

    def logits(tokens: Tokens) -> torch.Tensor:
        key = repr((seed, *map(int, tokens))).encode()
        noise = hashlib.shake_128(key).digest(vocab)
        row = [(byte % levels - 8) / 4 for byte in noise]
        row[eos_id] += boost / 4
        return torch.tensor(row, dtype=dtype)

    return logits
