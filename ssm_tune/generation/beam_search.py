"""Greedy and beam search as tensor operations of fixed shapes: the rules of ``beam``, for a GPU that nobody waits for.

    S slots, one example each    n beams (1: greedy)    V vocabulary    R = S * n rows of the model's state

No operation asks the host for anything, so that steps may be captured and replayed. A slot whose example has ended
stays as it is until another example is put into it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from ssm_tune.generation.settings import DecodeSettings, first_candidates

_LOWEST = -sys.float_info.max
"""Stands for a hypothesis of score minus infinity, which is what an empty place holds."""


def slots_of(
    prompt_lengths: Sequence[int], limits: Sequence[int], vocab: int, settings: DecodeSettings, room: int,
    device: torch.device,
) -> GreedySlots | BeamSlots:  # fmt: skip
    """One open slot for each prompt length (tokens). limits: new tokens of each at most; room: new tokens that are
    kept of any."""
    kind = GreedySlots if settings.num_beams == 1 else BeamSlots
    return kind(prompt_lengths, limits, vocab, settings, room, device)


class _Slots:
    """What both searches share. All fields are tensors whose first dimension is the slot; they change in place."""

    fields: tuple[str, ...] = ("prompt_length", "limit", "length", "open", "broken", "tokens", "parents")

    def __init__(
        self, prompt_lengths: Sequence[int], limits: Sequence[int], vocab: int, settings: DecodeSettings, room: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        slots, beams = len(prompt_lengths), settings.num_beams
        self.settings, self.vocab, self.device = settings, vocab, device
        self.prompt_length = torch.tensor(prompt_lengths, device=device)
        self.limit = torch.tensor(limits, device=device)
        self.length = self.prompt_length.new_zeros(slots)
        """Tokens generated so far."""
        self.open = torch.ones(slots, dtype=torch.bool, device=device)
        self.broken = ~self.open
        """Whether the logits were not finite."""
        self.tokens = self.length.new_zeros(slots, beams)
        """What each row reads next."""
        self.parents = self.length.new_zeros(slots, beams)
        """The beam whose state each goes on from."""
        self.trail = self.length.new_zeros(slots, room + 1, beams)
        """At each position each beam's token and its parent, as the candidate's index into (n, V); a place too many,
        for what slots that are not open write."""

    def close(self) -> None:
        """Leave all slots empty."""
        self.open.fill_(False)

    def source(self) -> Tensor:
        """(R,) int64: the row that each row goes on from; -1 for those that are idle."""
        slots, beams = self.tokens.shape
        first = torch.arange(0, slots * beams, beams, device=self.device).unsqueeze(1)
        return (first + self.parents).masked_fill(~self.open.unsqueeze(1), -1).flatten()

    def put(self, slots: Tensor, other: _Slots, others: Tensor) -> None:
        """Put the examples in the slots ``others`` of another, each at its first token, into ``slots`` (both int64)."""
        for name in self.fields:
            getattr(self, name)[slots] = getattr(other, name)[others]
        self.trail[slots, :1] = other.trail[others, :1]

    def status(self) -> tuple[list[bool], list[bool]]:
        """Of each slot, whether its example goes on, and whether its logits were not finite. The host waits here."""
        is_open, broken = torch.stack([self.open, self.broken]).tolist()
        return is_open, broken

    def _forbid_early_end(self, scores: Tensor) -> None:
        """scores: (S, n, V), changed in place."""
        early = self.prompt_length + self.length < self.settings.min_length
        ends = scores[..., self.settings.eos_id]
        ends.copy_(ends.masked_fill(early.unsqueeze(1), -torch.inf))

    def _keep(self, chosen: Tensor, going: Tensor) -> None:
        """Append the candidates that the beams continue with, (S, n), and count them where ``going`` (S,)."""
        self.trail.scatter_(1, self.length.view(-1, 1, 1).expand_as(chosen.unsqueeze(1)), chosen.unsqueeze(1))
        self.length += going


class GreedySlots(_Slots):
    """``beam.GreedySearch`` on tensors."""

    def advance(self, logits: Tensor) -> None:
        """Read logits (S, V), which may be changed."""
        self._forbid_early_end(logits.unsqueeze(1))
        token = logits.argmax(dim=1, keepdim=True)
        finite = logits.gather(1, token).squeeze(1).isfinite()
        going = self.open & finite
        self.broken |= self.open & ~finite
        self._keep(token, going)
        self.tokens.copy_(token)
        self.open.copy_(going & (token.squeeze(1) != self.settings.eos_id) & (self.length < self.limit))

    def results(self, slots: list[int]) -> list[list[int]]:
        """The tokens of examples that have ended, without EOS."""
        at = torch.tensor(slots, device=self.device)
        lengths = self.length[at].tolist()
        trail = self.trail[at, : max(lengths), 0].tolist()
        outputs = [row[:length] for row, length in zip(trail, lengths, strict=True)]
        return [row[:-1] if row[-1] == self.settings.eos_id else row for row in outputs]


class BeamSlots(_Slots):
    """``beam.BeamSearch`` on tensors; scores of hypotheses are float64, as Python's are."""

    fields = (*_Slots.fields, "scores", "cut", "held", "held_end")

    def __init__(
        self, prompt_lengths: Sequence[int], limits: Sequence[int], vocab: int, settings: DecodeSettings, room: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(prompt_lengths, limits, vocab, settings, room, device)
        self.scores = torch.full(self.tokens.shape, -1e9, device=device)
        self.scores[:, 0] = 0.0
        self.cut = torch.zeros_like(self.open)
        """Whether the example ended at its limit, so that its open beams are hypotheses too."""
        self.held = torch.full(self.tokens.shape, -torch.inf, dtype=torch.float64, device=device)
        """Scores of the finished hypotheses, the latest first; minus infinity: none."""
        self.held_end = torch.zeros_like(self.tokens)
        """Where each ends: its tokens times n, plus the beam that it was then."""
        divisors = [float(length**settings.length_penalty) for length in range(1, room + 2)]
        self._divisors = torch.tensor(divisors, dtype=torch.float64, device=device)

    def advance(self, logits: Tensor) -> None:
        """Read logits (S * n, V), or (S, V) where all beams of a slot share them: at the first token."""
        beams, length = self.settings.num_beams, self.length.unsqueeze(1)
        log_probs = torch.log_softmax(logits, dim=-1).unflatten(0, (len(self.open), -1))
        self._forbid_early_end(log_probs)
        best, index = first_candidates(log_probs, self.scores, 2 * beams)
        token, parent = index % self.vocab, index // self.vocab
        ends = token == self.settings.eos_id
        finite = best[:, 0].isfinite()
        going = self.open & finite
        self.broken |= self.open & ~finite

        normalised = self._normalised(best[:, :beams], self.length)
        offered = normalised.masked_fill(~ends[:, :beams], -torch.inf)
        held, held_end = _admitted(self.held, self.held_end, offered, length * beams + parent[:, :beams])
        # Whether an open beam could still get in, judged by today's best candidate: a heuristic, not a bound.
        done = held.amin(1) >= normalised[:, 0]
        kept = torch.sort(ends.int(), dim=1, stable=True).indices[:, :beams]  # those that do not end, the best first
        self._keep(index.gather(1, kept), going)
        over = self.length >= self.limit
        for mine, new in ((self.held, held), (self.held_end, held_end), (self.scores, best.gather(1, kept))):
            mine.copy_(torch.where(going.unsqueeze(1), new, mine))
        self.tokens.copy_(token.gather(1, kept))
        self.parents.copy_(parent.gather(1, kept).clamp(max=log_probs.shape[1] - 1))
        self.cut |= going & over & ~done
        self.open.copy_(going & ~over & ~done)

    def _normalised(self, scores: Tensor, length: Tensor) -> Tensor:
        """Sums of log-probabilities (S, n) over length + 1 tokens as scores of hypotheses."""
        return (scores.double() / self._divisors[length].unsqueeze(1)).clamp(min=_LOWEST)

    def results(self, slots: list[int]) -> list[list[int]]:
        """The best hypotheses of examples that have ended, the latest among equals."""
        at = torch.tensor(slots, device=self.device)
        beams, length = self.settings.num_beams, self.length[at]
        offered = self._normalised(self.scores[at], length - 1).masked_fill(~self.cut[at].unsqueeze(1), -torch.inf)
        beam = torch.arange(beams, device=self.device)
        held, held_end = _admitted(self.held[at], self.held_end[at], offered, length.unsqueeze(1) * beams + beam)
        best = held.argmax(1, keepdim=True)  # the first of equals
        ends = held_end.gather(1, best).squeeze(1).tolist()
        trail = self.trail[at, : int(length.max())].cpu()
        return [self._walked(trail[row], *divmod(end, beams)) for row, end in enumerate(ends)]

    def _walked(self, trail: Tensor, length: int, beam: int) -> list[int]:
        """The tokens of a hypothesis, from its end to its start and turned."""
        tokens = []
        for candidates in reversed(trail[:length].tolist()):
            beam, token = divmod(candidates[beam], self.vocab)
            tokens.append(token)
        return tokens[::-1]


def _admitted(held: Tensor, held_end: Tensor, offered: Tensor, offered_end: Tensor) -> tuple[Tensor, Tensor]:
    """The hypotheses that stay after others are offered one by one, the best of them first.

    held: (S, n), the latest first; offered: (S, m), in the order of the offers, which is descending. One that is
    offered gets in if there is room or if it beats the worst held, whose earliest leaves: so among equals those that
    were there stay, the later ones longest, and of those that are offered the first.
    """
    count, new = held.shape[1], offered.shape[1]
    scores = torch.cat([held, offered], dim=1)
    chosen = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :count]
    # back into the order of age: numbered from the last offered to the first held
    age = torch.where(chosen < count, chosen + new, count + new - 1 - chosen).sort(dim=1).values
    chosen = torch.where(age < new, count + new - 1 - age, age - new)
    return scores.gather(1, chosen), torch.cat([held_end, offered_end], dim=1).gather(1, chosen)
