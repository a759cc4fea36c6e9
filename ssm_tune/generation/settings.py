"""Greedy and beam search on logits alone, many examples at once; the model's state is the caller's business.

The rules are those of the scorer of transformers 4.40.2, which the paper's code used, with one addition that
makes them a function of the logits: among equal scores the lower flattened (beam, token) index comes first.

    N examples still open   n beams   V vocabulary   R rows: N * n, or N before the first step

A search is driven like this; ``rows`` says which rows of the model's state the next step goes on from::

    while (move := search.advance(logits)) is not None:
        if move.rows is not None:
            cache.select(move.rows)
        logits = model.step(move.tokens, cache)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_tune.utils.errors import UserError

History = tuple["History", int] | None
"""Tokens generated so far, newest first, as linked pairs: beams share what they have in common."""


@dataclass(frozen=True)
class DecodeSettings:
    """How to decode. Defaults: the paper's. Raises UserError where a value cannot work."""

    num_beams: int = 5
    """1 is greedy decoding."""
    min_length: int = 5
    """No end of sequence before this many tokens, the prompt's included (so it is inert for most prompts)."""
    max_new_tokens: int = 1024
    length_penalty: float = 1.0
    """A hypothesis scores (sum of log-probabilities) / (generated tokens, EOS included) ** length_penalty."""
    eos_id: int = 0
    batch_size: int | None = None
    """Examples decoded together: speed and memory only; each holds num_beams states. None: 64 on a CPU; on a GPU the
    largest power of two whose states fit, up to 1,280 beams."""

    def __post_init__(self) -> None:
        least = {"num_beams": 1, "min_length": 0, "max_new_tokens": 1, "eos_id": 0, "batch_size": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if name == "batch_size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < bound:
                raise UserError(f"decoding: {name} must be a whole number of at least {bound}, got {value!r}")
        penalty = self.length_penalty
        if not isinstance(penalty, int | float) or isinstance(penalty, bool) or not abs(penalty) <= 10:
            raise UserError(f"decoding: length_penalty must be a number between -10 and 10, got {penalty!r}")


class Move(NamedTuple):
    """What to feed the model next, both on the logits' device."""

    tokens: Tensor
    """(R',) int64: one token for each row that goes on."""
    rows: Tensor | None
    """(R',) int64: the row of the last logits that each continues; None where row r continues row r."""


def search(prompt_lengths: list[int], settings: DecodeSettings) -> GreedySearch | BeamSearch:
    """The search that ``settings`` ask for, over one example for each prompt length (tokens)."""
    kind = GreedySearch if settings.num_beams == 1 else BeamSearch
    return kind(prompt_lengths, settings)


def first_candidates(log_probs: Tensor, beam_scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best continuations of each example, best first, equal ones by ascending flattened index.

    log_probs: (N, n, V), or (N, 1, V) where the n beams share one row, in float32 or narrower; beam_scores:
    (N, n) float32; k <= n * V. Returns scores (N, k) float32, which are log_probs + beam_scores rounded once,
    and indices (N, k) int64 into the flattened (n, V).

    ``torch.topk`` leaves the order of equal elements open, and bf16 log-probabilities are full of them. So
    cut each row into blocks and take the k blocks with the highest maxima, earlier blocks first among equals.
    They hold the answer, for every block before a rejected one has an element that precedes all of the
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


class _Search:
    """What both searches share: the examples still open and the results of those that are done."""

    def __init__(self, prompt_lengths: list[int], settings: DecodeSettings) -> None:
        self.settings = settings
        self.prompt_lengths = prompt_lengths
        self.results: list[list[int]] = [[] for _ in prompt_lengths]
        """Generated tokens of each example, without EOS; final once the example is done."""
        self.length = 0
        """Tokens generated so far for each open example."""
        self.finished = 0
        """Examples that are done."""

    def _too_short(self, examples: list[int]) -> list[int]:
        """Positions in ``examples`` of those that may not end yet."""
        limit = self.settings.min_length - self.length
        return [at for at, example in enumerate(examples) if self.prompt_lengths[example] < limit]

    def _refuse_non_finite(self, best: list[float], examples: list[int]) -> None:
        for example, score in zip(examples, best, strict=True):
            if not math.isfinite(score):
                raise FloatingPointError(
                    f"decoding: the model's logits are not finite at generated token {self.length} of "
                    f"prompt {example} of the batch; its weights or adapter have probably diverged"
                )

    def _move(self, tokens: list[int], rows: list[int], logits: Tensor) -> Move | None:
        if not tokens:
            return None
        unchanged = rows == list(range(len(logits)))
        both = torch.tensor([tokens, rows], device=logits.device)
        return Move(both[0], None if unchanged else both[1])


class GreedySearch(_Search):
    """Arg-max of the logits at each step, the lowest token among equals."""

    def __init__(self, prompt_lengths: list[int], settings: DecodeSettings) -> None:
        super().__init__(prompt_lengths, settings)
        self._open = list(range(len(prompt_lengths)))

    def advance(self, logits: Tensor) -> Move | None:
        """Read logits (R, V) of the open rows; None when every example is done.

        Raises FloatingPointError where a row has no finite maximum.
        """
        settings = self.settings
        too_short = self._too_short(self._open)
        if too_short:
            logits = logits.clone()
            logits[too_short, settings.eos_id] = -math.inf
        self.length += 1
        best = logits.argmax(dim=1)
        values = logits.gather(1, best.unsqueeze(1)).squeeze(1)
        self._refuse_non_finite(values.tolist(), self._open)
        rows = []
        tokens = best.tolist()
        for row, (example, token) in enumerate(zip(self._open, tokens, strict=True)):
            if token != settings.eos_id:
                self.results[example].append(token)
                if self.length < settings.max_new_tokens:
                    rows.append(row)
        self._open = [self._open[row] for row in rows]
        self.finished = len(self.results) - len(self._open)
        return self._move([tokens[row] for row in rows], rows, logits)


class BeamSearch(_Search):
    """Beam search. The logits of all examples are reduced to 2n candidates each at once, on their device;
    what follows is a few comparisons for each example, in plain Python."""

    def __init__(self, prompt_lengths: list[int], settings: DecodeSettings) -> None:
        super().__init__(prompt_lengths, settings)
        self._open = [_Beams(example, settings) for example in range(len(prompt_lengths))]

    def advance(self, logits: Tensor) -> Move | None:
        """Read logits (N, V) at the first step, (N * n, V) later; None when every example is done.

        Log-probabilities are the log-softmax in the logits' own dtype (bf16's ties are part of the paper's
        numbers); their sums are float32. Raises FloatingPointError where logits hold NaN or nothing finite.
        """
        settings, examples = self.settings, [beams.example for beams in self._open]
        log_probs = torch.log_softmax(logits, dim=-1).unflatten(0, (len(examples), -1))
        too_short = self._too_short(examples)
        if too_short:
            log_probs[too_short, :, settings.eos_id] = -math.inf
        self.length += 1
        beam_scores = torch.tensor([beams.scores for beams in self._open], device=logits.device)
        best = first_candidates(log_probs, beam_scores, 2 * settings.num_beams)
        scores, indices = best[0].tolist(), best[1].tolist()
        self._refuse_non_finite([row[0] for row in scores], examples)

        per_example, vocab = log_probs.shape[1:]  # rows: one before the first step, then num_beams
        tokens: list[int] = []
        rows: list[int] = []
        still_open = []
        for at, beams in enumerate(self._open):
            candidates = [divmod(index, vocab) for index in indices[at]]
            parents, new = beams.advance(scores[at], candidates, self.length)
            if beams.done:
                self.results[beams.example] = beams.best()
                continue
            still_open.append(beams)
            tokens += new
            rows += [at * per_example + min(parent, per_example - 1) for parent in parents]
        self._open = still_open
        self.finished = len(self.results) - len(self._open)
        return self._move(tokens, rows, logits)


class _Beams:
    """One example's open beams and its finished hypotheses."""

    def __init__(self, example: int, settings: DecodeSettings) -> None:
        self.example = example
        self.settings = settings
        self.scores = [0.0] + [-1e9] * (settings.num_beams - 1)
        self.done = False
        self._histories: list[History] = [None] * settings.num_beams
        self._finished: list[tuple[float, History]] = []

    def advance(
        self, scores: list[float], candidates: list[tuple[int, int]], length: int
    ) -> tuple[list[int], list[int]]:
        """Take one step from the 2n candidates (beam, token) and their scores, best first.

        ``length`` counts generated tokens, this step's included. Returns each new beam's parent and token.
        """
        n, eos_id = self.settings.num_beams, self.settings.eos_id
        divisor = length**self.settings.length_penalty
        kept: list[tuple[float, int, int]] = []
        for rank, (score, (beam, token)) in enumerate(zip(scores, candidates, strict=True)):
            if token != eos_id:
                kept.append((score, beam, token))
                if len(kept) == n:
                    break
            elif rank < n:
                self._finish(score / divisor, self._histories[beam])
        self._histories = [(self._histories[beam], token) for _, beam, token in kept]
        self.scores = [score for score, _, _ in kept]
        # Whether an open beam could still get in, judged by today's best candidate: a heuristic, not a bound.
        worst = min((held for held, _ in self._finished), default=math.inf)
        self.done = len(self._finished) == n and worst >= scores[0] / divisor
        if not self.done and length == self.settings.max_new_tokens:
            for score, history in zip(self.scores, self._histories, strict=True):
                self._finish(score / divisor, history)
            self.done = True
        return [beam for _, beam, _ in kept], [token for _, _, token in kept]

    def _finish(self, score: float, history: History) -> None:
        """Admit a hypothesis, unless n are at least as good; the earliest of the worst makes room."""
        if len(self._finished) == self.settings.num_beams:
            held = [other for other, _ in self._finished]
            if score <= min(held):
                return
            del self._finished[held.index(min(held))]
        self._finished.append((score, history))

    def best(self) -> list[int]:
        """Tokens of the hypothesis with the highest score, the latest among equals."""
        _, history = max(reversed(self._finished), key=lambda hypothesis: hypothesis[0])
        tokens = []
        while history is not None:
            history, token = history
            tokens.append(token)
        return tokens[::-1]
