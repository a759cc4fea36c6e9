"""Greedy and beam search for many examples at once, as tensor operations of fixed shapes.

The rules are those of the scorer of transformers 4.40.2, which the paper's code used, with one addition that makes the
result a function of the logits: among equal scores the lower flattened (beam, token) index comes first.

    B examples    n beams (1: greedy)    V vocabulary    R = B * n rows of the model's state

A search reads logits and says which token each row reads next and which row's state it continues::

    search.advance(logits)
    logits = model.step(search.tokens.flatten(), cache, search.parent_rows(), next_cache)

On a GPU no operation waits for the device, so that steps can be captured in a CUDA graph. An example that has ended
stays as it is: ``select`` drops it, or ``insert`` puts another into its place.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from ssm_tune.generation.candidates import first_candidates
from ssm_tune.generation.settings import DecodeSettings

_LOWEST = -sys.float_info.max
"""Stands for a hypothesis whose score is minus infinity, which is what an empty entry holds."""


def new_search(
    prompt_lengths: Sequence[int],
    limits: Sequence[int],
    vocab: int,
    settings: DecodeSettings,
    most_tokens: int,
    device: torch.device,
) -> GreedySearch | BeamSearch:
    """The search that ``settings`` ask for, over one example for each prompt length (tokens).

    prompt_lengths: none of the examples that are inserted later may be shorter than the shortest of these. limits: most
    new tokens of each example; most_tokens: new tokens that there is memory for.
    """
    kind = GreedySearch if settings.num_beams == 1 else BeamSearch
    return kind(prompt_lengths, limits, vocab, settings, most_tokens, device)


def require_finite(search: _Search, non_finite: Sequence[bool], numbers: Mapping[int, int]) -> None:
    """Raise FloatingPointError if logits of an example were not finite. numbers: of the examples' prompts, by place."""
    bad = [(number, place) for place, number in numbers.items() if non_finite[place]]
    if bad:
        number, place = min(bad)
        raise FloatingPointError(
            f"decoding: the model's logits are not finite at generated token {int(search.length[place]) + 1} of "
            f"prompt {number}; its weights or adapter have probably diverged"
        )


class _Search:
    """What both searches share. The tensors named in ``fields`` have the example as first dimension and change in
    place."""

    fields: tuple[str, ...] = ("prompt_length", "limit", "length", "open", "non_finite", "tokens", "parents")

    def __init__(
        self,
        prompt_lengths: Sequence[int],
        limits: Sequence[int],
        vocab: int,
        settings: DecodeSettings,
        most_tokens: int,
        device: torch.device,
    ) -> None:
        examples, beams = len(prompt_lengths), settings.num_beams
        self.settings, self.vocab, self.device = settings, vocab, device
        self._short_prompts = min(prompt_lengths) < settings.min_length
        self.prompt_length = torch.tensor(prompt_lengths, device=device)
        self.limit = torch.tensor(limits, device=device)
        self.length = self.prompt_length.new_zeros(examples)
        """(B,) int64: tokens generated so far."""
        self.open = torch.ones(examples, dtype=torch.bool, device=device)
        """(B,) bool: whether the example has not ended."""
        self.non_finite = ~self.open
        """(B,) bool: whether its logits were not finite, which ended it."""
        self.tokens = self.length.new_zeros(examples, beams)
        """(B, n) int64: what each row reads next."""
        self.parents = self.length.new_zeros(examples, beams)
        """(B, n) int64: the beam whose state each row continues."""
        self.history = self.length.new_empty(examples, most_tokens + 1, beams)
        """(B, positions, n) int64: each beam's token and parent, as the candidate's index into (n, V); the additional
        position is for what examples that have ended write."""

    def clear(self) -> None:
        """End all examples."""
        self.open.fill_(False)

    def parent_rows(self, rows_per_example: int | None = None) -> Tensor:
        """(R,) int64: the row whose state each row continues; -1 where the example has ended.

        rows_per_example: 1 where the state still has one row for each example, at the first token; else n.
        """
        examples, beams = self.tokens.shape
        first = torch.arange(examples, device=self.device).unsqueeze(1) * (rows_per_example or beams)
        return (first + self.parents).masked_fill(~self.open.unsqueeze(1), -1).flatten()

    def insert(self, places: Tensor, other: _Search, others: Tensor) -> None:
        """Put the examples ``others`` of another search, each at its first token, into ``places`` (both int64)."""
        for name in self.fields:
            getattr(self, name)[places] = getattr(other, name)[others]
        self.history[places, :1] = other.history[others, :1]

    def select(self, kept: Sequence[int], length: int) -> Self:
        """A search with these examples alone. length: tokens that each of them has generated at most."""
        chosen, index = copy.copy(self), torch.tensor(kept, device=self.device)
        for name in self.fields:
            setattr(chosen, name, getattr(self, name)[index])
        chosen.history = self.history.new_empty(len(kept), *self.history.shape[1:])
        chosen.history[:, :length] = self.history[index, :length]
        return chosen

    def status(self) -> tuple[list[bool], list[bool]]:
        """Of each example, whether it has not ended, and whether its logits were not finite. Waits for the device."""
        still_open, non_finite = torch.stack([self.open, self.non_finite]).tolist()
        return still_open, non_finite

    def _forbid_early_end(self, scores: Tensor) -> None:
        """scores: (B, n, V), changed in place."""
        if not self._short_prompts:
            return
        early = self.prompt_length + self.length < self.settings.min_length
        ends = scores[..., self.settings.eos_id]
        ends.copy_(ends.masked_fill(early.unsqueeze(1), -torch.inf))

    def _append(self, chosen: Tensor, active: Tensor) -> None:
        """Append the candidates that the beams continue with, (B, n), and count them where ``active`` (B,)."""
        self.history.scatter_(1, self.length.view(-1, 1, 1).expand_as(chosen.unsqueeze(1)), chosen.unsqueeze(1))
        self.length += active


class GreedySearch(_Search):
    """The highest logit at each step, the lowest token among equals."""

    def advance(self, logits: Tensor) -> None:
        """Read logits (B, V), which may be changed."""
        self._forbid_early_end(logits.unsqueeze(1))
        token = logits.argmax(dim=1, keepdim=True)
        finite = logits.gather(1, token).squeeze(1).isfinite()
        active = self.open & finite
        self.non_finite |= self.open ^ active
        self._append(token, active)
        self.tokens.copy_(token)
        self.open.copy_(active & (token.squeeze(1) != self.settings.eos_id) & (self.length < self.limit))

    def results(self, examples: list[int]) -> list[list[int]]:
        """The tokens of examples that have ended, without the end-of-sequence token."""
        index = torch.tensor(examples, device=self.device)
        lengths = self.length[index].tolist()
        history = self.history[index, : max(lengths), 0].tolist()
        outputs = [row[:length] for row, length in zip(history, lengths, strict=True)]
        return [row[:-1] if row[-1] == self.settings.eos_id else row for row in outputs]


class BeamSearch(_Search):
    """Beam search. Log-probabilities are the log-softmax in the logits' own dtype (bfloat16's ties are part of the
    paper's numbers), their sums float32, scores of hypotheses float64."""

    fields = (*_Search.fields, "scores", "at_limit", "hypotheses", "ends")

    def __init__(
        self,
        prompt_lengths: Sequence[int],
        limits: Sequence[int],
        vocab: int,
        settings: DecodeSettings,
        most_tokens: int,
        device: torch.device,
    ) -> None:
        super().__init__(prompt_lengths, limits, vocab, settings, most_tokens, device)
        self.scores = torch.full(self.tokens.shape, -1e9, device=device)
        """(B, n) float32: the open beams' sums of log-probabilities."""
        self.scores[:, 0] = 0.0
        self.at_limit = torch.zeros_like(self.open)
        """(B,) bool: whether the example ended at its limit, so that its open beams are hypotheses too."""
        self.hypotheses = torch.full(self.tokens.shape, -torch.inf, dtype=torch.float64, device=device)
        """(B, n) float64: scores of the finished hypotheses, the latest first; minus infinity: none."""
        self.ends = torch.zeros_like(self.tokens)
        """(B, n) int64: where each hypothesis ends: its tokens times n, plus the beam that it was then."""
        divisors = [float(length**settings.length_penalty) for length in range(1, most_tokens + 2)]
        self._divisors = torch.tensor(divisors, dtype=torch.float64, device=device)

    def advance(self, logits: Tensor) -> None:
        """Read logits (B * n, V), or (B, V) where all beams of an example share them: at the first token."""
        beams, length = self.settings.num_beams, self.length.unsqueeze(1)
        log_probs = torch.log_softmax(logits, dim=-1).unflatten(0, (len(self.open), -1))
        self._forbid_early_end(log_probs)
        best, index = first_candidates(log_probs, self.scores, 2 * beams)
        token, parent = index % self.vocab, index // self.vocab
        at_end = token == self.settings.eos_id
        finite = best[:, 0].isfinite()
        active = self.open & finite
        self.non_finite |= self.open ^ active

        normalised = self._normalised(best[:, :beams], self.length)
        offered = normalised.masked_fill(~at_end[:, :beams], -torch.inf)
        hypotheses, ends = self.hypotheses, self.ends
        if self._some(at_end):
            hypotheses, ends = _admit(hypotheses, ends, offered, length * beams + parent[:, :beams])
        # Whether an open beam could still get in, judged by the best candidate of this step: a heuristic, not a bound.
        done = hypotheses.amin(1) >= normalised[:, 0]
        kept = torch.sort(at_end.int(), dim=1, stable=True).indices[:, :beams]  # those that do not end, the best first
        self._append(index.gather(1, kept), active)
        over = self.length >= self.limit
        changed = ((self.hypotheses, hypotheses), (self.ends, ends), (self.scores, best.gather(1, kept)))
        for mine, new in changed:
            mine.copy_(torch.where(active.unsqueeze(1), new, mine))
        self.tokens.copy_(token.gather(1, kept))
        self.parents.copy_(parent.gather(1, kept).clamp(max=log_probs.shape[1] - 1))
        self.at_limit |= active & over & ~done
        self.open.copy_(active & ~over & ~done)

    def _some(self, flags: Tensor) -> bool:
        """Whether any flag is set; True on a GPU, which the host does not wait for."""
        return self.device.type != "cpu" or bool(flags.any())

    def _normalised(self, scores: Tensor, length: Tensor) -> Tensor:
        """Sums of log-probabilities (B, n) over length + 1 tokens as scores of hypotheses."""
        return (scores.double() / self._divisors[length].unsqueeze(1)).clamp(min=_LOWEST)

    def results(self, examples: list[int]) -> list[list[int]]:
        """The tokens of the best hypotheses of examples that have ended, the latest among equals."""
        index = torch.tensor(examples, device=self.device)
        beams, length = self.settings.num_beams, self.length[index]
        offered = self._normalised(self.scores[index], length - 1)
        offered = offered.masked_fill(~self.at_limit[index].unsqueeze(1), -torch.inf)
        beam = torch.arange(beams, device=self.device)
        hypotheses, ends = _admit(self.hypotheses[index], self.ends[index], offered, length.unsqueeze(1) * beams + beam)
        best = hypotheses.argmax(1, keepdim=True)  # the first of equals
        chosen = ends.gather(1, best).squeeze(1).tolist()
        history = self.history[index, : int(length.max())].cpu()
        return [self._backtrack(history[row], *divmod(end, beams)) for row, end in enumerate(chosen)]

    def _backtrack(self, history: Tensor, length: int, beam: int) -> list[int]:
        """The tokens of a hypothesis, followed from its end to its start."""
        tokens = []
        for candidates in reversed(history[:length].tolist()):
            beam, token = divmod(candidates[beam], self.vocab)
            tokens.append(token)
        return tokens[::-1]


def _admit(held: Tensor, held_ends: Tensor, offered: Tensor, offered_ends: Tensor) -> tuple[Tensor, Tensor]:
    """The hypotheses that stay after others are offered one by one, the best of them first.

    held: scores (B, n), the latest first; offered: (B, m), in the order of the offers, which is descending. One that is
    offered gets in if there is room or if it beats the worst held, whose earliest leaves: so among equals those that
    were there stay, the later ones longest, and of those that are offered the first.
    """
    count, new = held.shape[1], offered.shape[1]
    scores = torch.cat([held, offered], dim=1)
    chosen = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :count]
    # back into the order of age: numbered from the last offered to the first held
    age = torch.where(chosen < count, chosen + new, count + new - 1 - chosen).sort(dim=1).values
    chosen = torch.where(age < new, count + new - 1 - age, age - new)
    return scores.gather(1, chosen), torch.cat([held_ends, offered_ends], dim=1).gather(1, chosen)
