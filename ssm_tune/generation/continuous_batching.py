"""Decoding on a GPU: slots that examples enter as others leave, steps as a CUDA graph, few reads by the host.

Two copies of the slots' states take turns: a step reads one, at the rows that its beams go on from, and writes the
other. Prompts are read in batches through the scan and wait there for slots. What an example's tokens are follows from
the batch that its prompt was read in and from the number of slots; which slot it has and beside whom changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ssm_tune.data.collator import pad_prompts
from ssm_tune.generation.beam_search import BeamSlots, GreedySlots, slots_of
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.ops.cuda.graph import Capture, Work
from ssm_tune.utils.errors import UserError, first_line, origin

if TYPE_CHECKING:
    from ssm_tune.models.mamba import Cache, Mamba

log = logging.getLogger(__name__)
HandOver = Callable[[list[int], list[list[int]]], None]
READ = 2
"""Pairs of steps between two reads."""
MOST_ROWS = 1280
"""Rows that the slots hold at most where their number is left open; beyond, a step takes longer for each row, too."""


@dataclass
class _Read:
    """Prompts that are read together. rows: those that still wait for a slot."""

    numbers: list[int]
    search: GreedySlots | BeamSlots
    cache: Cache
    rows: list[int]


class Continuous:
    """Decodes ``prompts`` (token lists), and hands over the numbers and new tokens of those that have ended.

    limits: new tokens of each at most, where not settings.max_new_tokens. capture: None launches steps as they are.
    """

    def __init__(
        self, model: Mamba, prompts: list[list[int]], settings: DecodeSettings, hand_over: HandOver,
        poll: Callable[[], None], capture: Capture | None, limits: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.prompts, self.settings = model, prompts, settings
        self.hand_over, self.poll, self.capture = hand_over, poll, capture
        self.limits = limits or [settings.max_new_tokens] * len(prompts)
        self.refused: str | None = None
        """Why the steps could not be captured."""
        self.steps, self.slots, self.row_bytes = 0, 0, 0
        """Steps taken, slots, and bytes of the states of a row."""
        self._owners: dict[int, int] = {}
        """The example in each slot that is taken."""
        self._free: list[int] = []
        self._waiting: _Read | None = None
        self._slots: GreedySlots | BeamSlots | None = None
        self._states: tuple[Cache, Cache] | None = None
        self._pair: Work | None = None

    def run(self, batches: list[list[int]], skip: Container[int] = ()) -> None:
        """Decode the batches of prompt numbers in turn, but for those in ``skip``.

        Raises FloatingPointError for logits that are not finite, torch.OutOfMemoryError that names what was asked for,
        and whatever ``poll``, called at each read, raises.
        """
        wanted = iter([batch for batch in batches if not all(at in skip for at in batch)])
        with self.capture.running() if self.capture is not None else nullcontext():
            try:
                while True:
                    self._fill(wanted, skip)
                    if not self._owners:
                        return
                    self.poll()
                    self._advance()
                    self._harvest()
            finally:
                self._pair = self._slots = self._states = self._waiting = None
                if self.capture is not None:
                    self.capture.release()

    def _fill(self, wanted: Iterator[list[int]], skip: Container[int]) -> None:
        """Put examples into free slots, and read prompts for them, as long as there are both."""
        while True:
            if self._slots is not None and not self._free:
                return
            if self._waiting is None:
                batch = next(wanted, None)
                if batch is None:
                    return
                self._waiting = self._read(batch, skip)
            waiting = self._waiting
            if self._slots is None and waiting.rows:
                self._make_slots(waiting.cache)
            count = min(len(self._free), len(waiting.rows))
            taken, self._free = self._free[:count], self._free[count:]
            rows, waiting.rows = waiting.rows[:count], waiting.rows[count:]
            self._waiting = waiting if waiting.rows else None
            if not count:
                continue
            self._owners |= {slot: waiting.numbers[row] for slot, row in zip(taken, rows, strict=True)}
            assert self._slots is not None
            assert self._states is not None
            slots, others = torch.tensor([taken, rows], device=self.model.device)
            self._slots.put(slots, waiting.search, others)
            self._states[0].insert(slots * self.settings.num_beams, waiting.cache, others)

    def _read(self, batch: list[int], skip: Container[int]) -> _Read:
        """Read the prompts of a batch, and decide each one's first token."""
        prompts = [self.prompts[at] for at in batch]
        lengths = [len(prompt) for prompt in prompts]
        with _names_memory(f"reading {len(batch)} prompts of up to {max(lengths)} tokens"):
            logits, cache = self.model.prefill(*pad_prompts(prompts, self.model.device))
            limits = [self.limits[at] for at in batch]
            search = slots_of(lengths, limits, self.model.config.vocab_size, self.settings, 1, self.model.device)
            search.advance(logits)
        is_open, broken = search.status()
        self._refuse(search, [(row, batch[row]) for row in range(len(batch)) if broken[row]])
        rows = [row for row, at in enumerate(batch) if at not in skip]
        self._hand_over(search, [(row, batch[row]) for row in rows if not is_open[row]])
        return _Read(batch, search, cache, [row for row in rows if is_open[row]])

    def _make_slots(self, like: Cache) -> None:
        beams, model = self.settings.num_beams, self.model
        self.row_bytes = like.row_bytes
        fitting = self.settings.batch_size or _fitting(self.row_bytes, model, beams)
        self.slots = count = min(fitting, len(self.prompts))
        with _names_memory(f"the states of {count} examples with {beams} beams, twice"):
            room = max(self.limits)
            vocab = model.config.vocab_size
            self._slots = slots_of([1] * count, [1] * count, vocab, self.settings, room, model.device)
            self._slots.close()
            self._states = like.blank(count * beams), like.blank(count * beams)
        self._free = list(range(count))

    def _advance(self) -> None:
        """Take the steps up to the next read. The first pair runs as it is, which compiles and sizes what is needed;
        then the pair is captured, which on a GPU runs nothing, and replayed."""
        with _names_memory(f"a step of {len(self._free) + len(self._owners)} examples"):
            for _ in range(READ):
                if self._pair is not None:
                    self._pair()
                else:
                    self._two_steps()
                    self._pair = self._captured()
        self.steps += 2 * READ

    def _two_steps(self) -> None:
        assert self._slots is not None
        assert self._states is not None
        slots, (first, second) = self._slots, self._states
        for before, after in ((first, second), (second, first)):
            slots.advance(self.model.step(slots.tokens.view(-1), before, slots.source(), after))

    def _captured(self) -> Work:
        if self.capture is None:
            return self._two_steps
        try:
            return self.capture(self._two_steps)
        except (RuntimeError, UserError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.refused = first_line(origin(error))  # that a capture was broken off hides why
            log.warning("decoding cannot be captured as a CUDA graph and runs without: %s", self.refused)
            self.capture.release()
            return self._two_steps

    def _harvest(self) -> None:
        """Hand over the examples that have ended since the last read, and free their slots."""
        slots = self._slots
        assert slots is not None
        is_open, broken = slots.status()
        self._refuse(slots, [(slot, at) for slot, at in self._owners.items() if broken[slot]])
        ended = [(slot, at) for slot, at in self._owners.items() if not is_open[slot]]
        for slot, _ in ended:
            del self._owners[slot]
            self._free.append(slot)
        self._hand_over(slots, ended)

    def _hand_over(self, search: GreedySlots | BeamSlots, ended: list[tuple[int, int]]) -> None:
        if ended:
            self.hand_over([at for _, at in ended], search.results([slot for slot, _ in ended]))

    def _refuse(self, search: GreedySlots | BeamSlots, broken: list[tuple[int, int]]) -> None:
        if broken:
            slot, at = min(broken, key=lambda pair: pair[1])
            raise FloatingPointError(
                f"decoding: the model's logits are not finite at generated token {int(search.length[slot]) + 1} of "
                f"prompt {at}; its weights or adapter have probably diverged"
            )


def _fitting(row_bytes: int, model: Mamba, beams: int) -> int:
    """Slots on a GPU where their number is left open: a power of two, of MOST_ROWS rows at most, whose states, twice,
    and logits take at most half of the memory that is free."""
    row = 2 * row_bytes + 4 * model.config.vocab_size * model.dtype.itemsize
    torch.cuda.empty_cache()  # what is cached counts as free; what CUDA graphs keep does not
    free, _ = torch.cuda.mem_get_info(model.device)
    slots = max(1, min(MOST_ROWS, free // (2 * row)) // beams)
    return int(2 ** (slots.bit_length() - 1))


@contextmanager
def _names_memory(doing: str) -> Iterator[None]:
    """Running out of GPU memory says at what."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(f"decoding, {doing}: {first_line(error)}") from error
