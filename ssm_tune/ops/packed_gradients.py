"""Gradients of slices that need no copy to be joined.

The gradient of a tensor that was split is its slices' gradients, one beside the other. Who makes these can put them
into memory as large as the tensor (``room_of``, ``pieces``); who joins them finds that memory and fills what is left of
it (``whole_of``). Only memory that was made for it is ever taken, and only once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ssm_tune.ops.cuda.launch import gradients_of

_WHOLE = "_ssm_tune_whole"


class Room(NamedTuple):
    """The shape (B, L, W) of a tensor, and where slices of its last dimension start and how wide they are."""

    shape: tuple[int, int, int]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]


def room_of(*slices: Tensor) -> Room | None:
    """Where tensors (B, L, n) lie in the one (B, L, W) that they are slices of; None if there is none, or they
    overlap."""
    if not slices:
        return None
    rows, length, _ = slices[0].shape
    width = slices[0].stride(1)
    first = int(slices[0].storage_offset()) // max(width, 1)
    starts = tuple(int(x.storage_offset()) - first * width for x in slices)
    sizes = tuple(x.shape[2] for x in slices)
    for x, start, size in zip(slices, starts, sizes, strict=True):
        fits = x.shape[:2] == (rows, length) and start >= 0 and start + size <= width and size < width
        if not fits or x.stride() != (length * width, width, 1) or x.dtype != slices[0].dtype:
            return None
        if x.untyped_storage()._cdata != slices[0].untyped_storage()._cdata:
            return None
    order = sorted(zip(starts, sizes, strict=True))
    if any(start + size > after for (start, size), (after, _) in itertools.pairwise(order)):
        return None
    return Room((rows, length, width), starts, sizes)


def pieces(whole: Tensor, room: Room) -> list[Tensor]:
    """The slices of a ``whole`` that was made for them; ``whole_of`` finds it by them."""
    found = []
    for start, size in zip(room.starts, room.sizes, strict=True):
        piece = whole[..., start : start + size]
        setattr(piece, _WHOLE, whole)
        found.append(piece)
    return found


def whole_of(gradients: Sequence[Tensor | None], starts: Sequence[int], width: int) -> Tensor | None:
    """The (B, L, width) that all ``gradients`` are pieces of, at their ``starts``; None if there is none. The caller
    may write to the rest of it, and nobody is told of it again."""
    whole: Tensor | None = getattr(gradients[0], _WHOLE, None)
    if whole is None or whole.shape[-1] != width:
        return None
    for gradient, start in zip(gradients, starts, strict=True):
        if getattr(gradient, _WHOLE, None) is not whole or gradient is None or gradient.storage_offset() != start:
            return None
    for gradient in gradients:
        delattr(gradient, _WHOLE)
    return whole


def rooms_of(
    given: Sequence[Tensor | None], wanted: list[bool], together: list[list[int]]
) -> list[tuple[list[int], Room]]:
    """Which of the inputs ``together``, by number, are all wanted gradients of, and slices of one tensor that is worth
    memory of its own; and where they lie in it."""
    found = []
    for numbers in together:
        slices = [x for number in numbers if wanted[number] and (x := given[number]) is not None]
        room = room_of(*slices) if len(slices) == len(numbers) else None
        if room is not None and _worth_it(room):
            found.append((numbers, room))
    return found


def memory_of_gradients(
    given: Sequence[Tensor | None], wanted: list[bool], rooms: list[tuple[list[int], Room]]
) -> list[Tensor]:
    """``gradients_of``, but that inputs with a room have the memory of all in the place of the first and none in the
    others'."""
    alone = list(wanted)
    for number in (number for numbers, _ in rooms for number in numbers):
        alone[number] = False
    found = gradients_of(given, alone)
    for (first, *_), room in rooms:
        found[first] = found[first].new_empty(room.shape, dtype=given[first].dtype)  # type: ignore[union-attr]
    return found


def gradients_within(memory: Sequence[Tensor], rooms: list[tuple[list[int], Room]]) -> list[Tensor]:
    """The gradients themselves in what ``memory_of_gradients`` gave, one for each input."""
    found = list(memory)
    for numbers, room in rooms:
        for number, piece in zip(numbers, pieces(memory[numbers[0]], room), strict=True):
            found[number] = piece
    return found


def _worth_it(room: Room) -> bool:
    """Whether kernels can write to the slices four numbers at a time, and not too much of the memory is for nothing."""
    width = room.shape[2]
    return not any(number % 4 for number in (width, *room.starts)) and width <= 8 * sum(room.sizes)
