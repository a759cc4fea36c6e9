"""Continuous batching for a GPU: examples enter the batch as others leave it, steps run as a CUDA graph, and the host
seldom waits.

The batch has a fixed number of places with n beams' states each. Two copies of the states take turns: a step reads one,
at the rows that its beams continue, and writes the other. Prompts are read in batches through the scan and wait there
for places. An example's tokens depend on the batch that its prompt was read in and on the number of places; which place
it has and which examples are beside it change nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ssm_tune.data.collator import pad_prompts
from ssm_tune.generation.batches import MOST_BEAMS, examples_together
from ssm_tune.generation.beam_search import BeamSearch, GreedySearch, new_search, require_finite
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.ops.cuda.graph import Capture, Work
from ssm_tune.utils.errors import UserError, first_line, origin

if TYPE_CHECKING:
    from ssm_tune.models.mamba import Cache, Mamba

log = logging.getLogger(__name__)
OnFinished = Callable[[list[int], list[list[int]]], None]
"""Called with the numbers of prompts that are done, and the new tokens of each."""
SYNC_EVERY = 4
"""Steps between two times that the host looks; even, since steps are taken in pairs."""


@dataclass
class _Prefilled:
    """Prompts that were read together. rows: those that still wait for a place."""

    numbers: list[int]
    search: GreedySearch | BeamSearch
    cache: Cache
    rows: list[int]


class ContinuousBatching:
    """Decodes ``prompts`` (token lists), and calls ``on_finished`` with the numbers and new tokens of those that ended.

    limits: new tokens of each at most, where not settings.max_new_tokens. capture: None launches each step's kernels
    singly.
    """

    def __init__(
        self,
        model: Mamba,
        prompts: list[list[int]],
        settings: DecodeSettings,
        on_finished: OnFinished,
        poll: Callable[[], None],
        capture: Capture | None,
        limits: Sequence[int] | None = None,
    ) -> None:
        self.model, self.prompts, self.settings = model, prompts, settings
        self.on_finished, self.poll, self.capture = on_finished, poll, capture
        self.limits = limits or [settings.max_new_tokens] * len(prompts)
        self.not_captured: str | None = None
        """Why the steps could not be captured as a CUDA graph."""
        self.steps, self.places, self.row_bytes = 0, 0, 0
        """Steps taken, examples that the batch holds, and bytes of the states of a beam."""
        self._numbers: dict[int, int] = {}
        """By place that is taken, the prompt's number."""
        self._free: list[int] = []
        self._waiting: _Prefilled | None = None
        self._search: GreedySearch | BeamSearch | None = None
        self._states: tuple[Cache, Cache] | None = None
        self._pair: Work | None = None

    def run(self, batches: list[list[int]], skip: Container[int] = ()) -> None:
        """Decode the batches of prompt numbers in turn, but for those in ``skip``.

        Raises FloatingPointError for logits that are not finite, torch.OutOfMemoryError that names what was asked for,
        and whatever ``poll``, called each time the host looks, raises.
        """
        batches_left = iter([batch for batch in batches if not all(at in skip for at in batch)])
        with self.capture.running() if self.capture is not None else nullcontext():
            try:
                while True:
                    self._fill(batches_left, skip)
                    if not self._numbers:
                        return
                    self.poll()
                    self._advance()
                    self._collect_finished()
            finally:
                self._pair = self._search = self._states = self._waiting = None
                if self.capture is not None:
                    self.capture.release()

    def _fill(self, batches_left: Iterator[list[int]], skip: Container[int]) -> None:
        """Insert examples into free places, and read prompts for them, as long as there are both."""
        while True:
            if self._search is not None and not self._free:
                return
            if self._waiting is None:
                batch = next(batches_left, None)
                if batch is None:
                    return
                self._waiting = self._prefill(batch, skip)
            waiting = self._waiting
            if self._search is None and waiting.rows:
                self._make_places(waiting.cache)
            count = min(len(self._free), len(waiting.rows))
            places, self._free = self._free[:count], self._free[count:]
            rows, waiting.rows = waiting.rows[:count], waiting.rows[count:]
            self._waiting = waiting if waiting.rows else None
            if count:
                self._insert(places, waiting, rows)

    def _insert(self, places: list[int], waiting: _Prefilled, rows: list[int]) -> None:
        """Put the examples in these rows of what was read into the places."""
        assert self._search is not None
        assert self._states is not None
        self._numbers |= {place: waiting.numbers[row] for place, row in zip(places, rows, strict=True)}
        mine, theirs = torch.tensor([places, rows], device=self.model.device)
        self._search.insert(mine, waiting.search, theirs)
        self._states[0].insert(mine * self.settings.num_beams, waiting.cache, theirs)

    def _prefill(self, batch: list[int], skip: Container[int]) -> _Prefilled:
        """Read the prompts of a batch, and decide each one's first token."""
        prompts = [self.prompts[at] for at in batch]
        lengths = [len(prompt) for prompt in prompts]
        with _names_memory(f"reading {len(batch)} prompts of up to {max(lengths)} tokens"):
            logits, cache = self.model.prefill(*pad_prompts(prompts, self.model.device))
            limits = [self.limits[at] for at in batch]
            search = new_search(lengths, limits, self.model.config.vocab_size, self.settings, 1, self.model.device)
            search.advance(logits)
        still_open, non_finite = search.status()
        require_finite(search, non_finite, dict(enumerate(batch)))
        rows = [row for row, at in enumerate(batch) if at not in skip]
        self._finish(search, [(row, batch[row]) for row in rows if not still_open[row]])
        return _Prefilled(batch, search, cache, [row for row in rows if still_open[row]])

    def _make_places(self, like: Cache) -> None:
        beams, model = self.settings.num_beams, self.model
        self.row_bytes = like.row_bytes
        fitting = self.settings.batch_size or _fitting(self.row_bytes, model, beams)
        self.places = count = min(fitting, len(self.prompts))
        with _names_memory(f"the states of {count} examples with {beams} beams, twice"):
            vocab, shortest = model.config.vocab_size, min(map(len, self.prompts))
            self._search = new_search(
                [shortest] * count, [1] * count, vocab, self.settings, max(self.limits), model.device
            )
            self._search.clear()
            self._states = like.blank(count * beams), like.blank(count * beams)
        self._free = list(range(count))

    def _advance(self) -> None:
        """Take the steps until the host looks again. The first pair of steps runs as it is, which compiles kernels and
        sizes memory; then a pair is captured, which on a GPU runs nothing, and from then on replayed."""
        with _names_memory(f"a step of {len(self._free) + len(self._numbers)} examples"):
            for _ in range(SYNC_EVERY // 2):
                if self._pair is not None:
                    self._pair()
                else:
                    self._two_steps()
                    self._pair = self._captured()
        self.steps += SYNC_EVERY

    def _two_steps(self) -> None:
        assert self._search is not None
        assert self._states is not None
        search, (first, second) = self._search, self._states
        for before, after in ((first, second), (second, first)):
            search.advance(self.model.step(search.tokens.view(-1), before, search.parent_rows(), after))

    def _captured(self) -> Work:
        if self.capture is None:
            return self._two_steps
        try:
            return self.capture(self._two_steps)
        except (RuntimeError, UserError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.not_captured = first_line(origin(error))  # the last error only says that a capture was broken off
            log.warning("decoding cannot be captured as a CUDA graph and runs without: %s", self.not_captured)
            self.capture.release()
            return self._two_steps

    def _collect_finished(self) -> None:
        """Give out the examples that have ended since the host last looked, and free their places."""
        search = self._search
        assert search is not None
        still_open, non_finite = search.status()
        require_finite(search, non_finite, self._numbers)
        ended = [(place, at) for place, at in self._numbers.items() if not still_open[place]]
        for place, _ in ended:
            del self._numbers[place]
            self._free.append(place)
        self._finish(search, ended)

    def _finish(self, search: GreedySearch | BeamSearch, ended: list[tuple[int, int]]) -> None:
        """ended: places and prompt numbers."""
        if ended:
            self.on_finished([at for _, at in ended], search.results([place for place, _ in ended]))


def _fitting(row_bytes: int, model: Mamba, beams: int) -> int:
    """Examples decoded together where decode.batch_size is null: those of ``examples_together``, and no more than have
    states, twice, and logits in half of the memory that is free."""
    row = 2 * row_bytes + 4 * model.config.vocab_size * model.dtype.itemsize
    torch.cuda.empty_cache()  # what is cached counts as free; what CUDA graphs keep does not
    free, _ = torch.cuda.mem_get_info(model.device)
    return examples_together(beams, min(MOST_BEAMS, free // (2 * row)))


@contextmanager
def _names_memory(doing: str) -> Iterator[None]:
    """Say in the message what was done when GPU memory ran out."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(f"decoding, {doing}: {first_line(error)}") from error
