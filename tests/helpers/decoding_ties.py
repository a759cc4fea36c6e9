"""Where two ways of decoding part ways, and whether rounding alone can be the reason.

Matrix products round differently at different batch sizes, so a search over many examples may decide a close
call otherwise than a search over one, and kernels otherwise than plain PyTorch. ``compare`` runs both, proves each
search right on the logits that it
saw (the plain reference, fed with them, must give the same tokens), and measures the first decision that
differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from helpers.beam_reference import Logits, Step, Tokens, beam_search, greedy
from ssm_tune.generation.generate import generate
from ssm_tune.generation.settings import DecodeSettings

Decode = Callable[[nn.Module, list[list[int]], DecodeSettings], list[list[int]]]


@dataclass
class Comparison:
    prompt: list[int]
    together: list[int]
    alone: list[int]
    logit_difference: float
    """Largest absolute difference of logits wherever both runs read the same tokens."""
    logit_scale: float
    """Largest absolute logit."""
    decision: str = ""
    """The first decision that differs, in words; empty where there is none."""
    margin: float = 0.0
    """By how much the run alone preferred its choice."""
    change: float = 0.0
    """By how much the compared scores differ between the two runs."""

    def __str__(self) -> str:
        return (
            f"prompt of {len(self.prompt)} tokens: {self.decision}; margin {self.margin:.3g}, scores differ "
            f"by {self.change:.3g}, logits by {self.logit_difference:.3g} of {self.logit_scale:.3g}"
        )


def compare(
    model: nn.Module,
    prompts: list[list[int]],
    settings: DecodeSettings,
    decode: Decode | None = None,
    decode_alone: Decode = generate,
) -> list[Comparison]:
    """Decode distinct prompts all together (or as ``decode`` does) and one by one; asserts that each run did what its
    logits say."""
    assert len({tuple(prompt) for prompt in prompts}) == len(prompts)
    recorder = Recorder(model)
    if decode is None:
        together = generate(recorder, prompts, replace(settings, batch_size=len(prompts)))
    else:
        together = decode(recorder, prompts, settings)
    seen = recorder.seen
    comparisons = []
    for prompt, output in zip(prompts, together, strict=True):
        recorder = Recorder(model)
        (alone,) = decode_alone(recorder, [prompt], settings)
        rows = {at: row for (owner, at), row in seen.items() if owner == tuple(prompt)}
        rows_alone = {at: row for (_, at), row in recorder.seen.items()}
        steps = _replay(rows, prompt, output, settings)
        steps_alone = _replay(rows_alone, prompt, alone, settings)
        common = rows.keys() & rows_alone.keys()
        result = Comparison(
            prompt,
            output,
            alone,
            max(float((rows[at].double() - rows_alone[at].double()).abs().max()) for at in common),
            max(float(row.abs().max()) for row in rows_alone.values()),
        )
        if output != alone:
            result.decision, result.margin, result.change = first_divergence(steps, steps_alone)
        comparisons.append(result)
    return comparisons


def _replay(rows: dict[Tokens, Tensor], prompt: list[int], output: list[int], settings: DecodeSettings) -> list[Step]:
    """What the reference does on recorded logits; asserts that it gives ``output``."""
    steps: list[Step] = []
    lookup: Logits = rows.__getitem__
    shared: dict[str, Any] = {
        "min_length": settings.min_length,
        "limit": settings.max_new_tokens,
        "eos_id": settings.eos_id,
        "log": steps,
    }
    if settings.num_beams == 1:
        expected = greedy(lookup, len(prompt), **shared)
    else:
        penalty = settings.length_penalty
        expected = beam_search(lookup, len(prompt), num_beams=settings.num_beams, length_penalty=penalty, **shared)
    assert output == expected
    return steps


def first_divergence(together: list[Step], alone: list[Step]) -> tuple[str, float, float]:
    """The first decision that differs, in words; its margin alone; the change of the scores it compares."""
    for number, (first, second) in enumerate(zip(together, alone, strict=False), start=1):
        for kind, orders, scores in (
            ("candidates", (first.order, second.order), (first.scores, second.scores)),
            ("hypotheses", (first.held, second.held), (first.offered, second.offered)),
        ):
            for x, y in zip(*orders, strict=False):
                if x != y:
                    margin = abs(scores[1][x] - scores[1][y])
                    change = abs(scores[0][x] - scores[1][x]) + abs(scores[0][y] - scores[1][y])
                    return f"step {number}, {kind} {x[-3:]} and {y[-3:]} change places", margin, change
        stops = [step.stop is not None and step.stop[0] >= step.stop[1] for step in (first, second)]
        if stops[0] != stops[1]:
            assert first.stop is not None
            assert second.stop is not None
            change = sum(abs(a - b) for a, b in zip(first.stop, second.stop, strict=True))
            return f"step {number}, one stops", abs(second.stop[0] - second.stop[1]), change
    raise AssertionError("outputs differ but no decision does")


class Recorder(nn.Module):
    """A model that remembers the logits after each (prompt, generated tokens) it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.seen: dict[tuple[Tokens, Tokens], Tensor] = {}
        self.rows_per_step: list[int] = []

    @property
    def device(self) -> torch.device:
        return self.model.device

    def prefill(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, RecordedCache]:
        logits, cache = self.model.prefill(input_ids, lengths)
        rows = zip(input_ids.tolist(), lengths.tolist(), strict=True)
        return self._remember(logits, recorded := RecordedCache(cache, [(tuple(r[:n]), ()) for r, n in rows])), recorded

    def step(
        self, tokens: Tensor, cache: RecordedCache, source: Tensor | None = None, into: RecordedCache | None = None
    ) -> Tensor:
        self.rows_per_step.append(len(tokens))
        read = range(len(tokens)) if source is None else source.tolist()
        keys = [
            (*cache.keys[row], token) if row >= 0 else None for row, token in zip(read, tokens.tolist(), strict=True)
        ]
        after = cache if into is None else into
        after.keys = [key and (key[0], (*key[1], key[2])) for key in keys]
        more = () if into is None else (source, into.inner)
        return self._remember(self.model.step(tokens, cache.inner, *more), after)

    def _remember(self, logits: Tensor, cache: RecordedCache) -> Tensor:
        assert len(logits) == len(cache.keys)
        self.seen.update((key, row) for key, row in zip(cache.keys, logits.clone(), strict=True) if key)
        return logits


class RecordedCache:
    row_bytes = 0

    def __init__(self, inner: Any, keys: list[tuple[Tokens, Tokens] | None]) -> None:
        self.inner = inner
        self.keys = keys

    def select(self, index: Tensor) -> None:
        self.inner.select(index)
        self.keys = [self.keys[row] for row in index.tolist()]

    def blank(self, rows: int) -> RecordedCache:
        return RecordedCache(self.inner.blank(rows), [None] * rows)

    def insert(self, rows: Tensor, other: RecordedCache, others: Tensor) -> None:
        self.inner.insert(rows, other.inner, others)
        for row, theirs in zip(rows.tolist(), others.tolist(), strict=True):
            self.keys[row] = other.keys[theirs]
