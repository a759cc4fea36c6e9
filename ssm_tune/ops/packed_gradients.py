"""Gradients of slices of one tensor, made in memory as large as the tensor, so that joining them needs no copy.

The gradient of a tensor (B, L, W) that was split along its last dimension is the slices' gradients side by side. The
operation that makes the slices' gradients allocates memory for the whole and hands out views of it (``slice_views``);
the operation that needs the whole finds it again from these views (``packed_base``) and fills the rest of it.

Between the two lies autograd, which hands on tensors and nothing else. ``_PACKED`` is the one place that knows which
memory was made for this: no other memory is ever taken, and none twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary  # documented by its source alone; tried with PyTorch 2.13

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.cuda.launch import gradients_of


class SliceLayout(NamedTuple):
    """The shape (B, L, W) of a tensor, and where slices of its last dimension start and how wide they are."""

    shape: tuple[int, int, int]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]


_PACKED = WeakTensorKeyDictionary()
"""Memory that ``slice_views`` gave views of, with their layout, until ``packed_base`` took it or the last view went."""


def slice_layout(*slices: Tensor) -> SliceLayout | None:
    """Where tensors (B, L, n) lie in the one (B, L, W) that they are slices of; None if they are not, or overlap."""
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
        # the storages' identity; _cdata is private, tried with PyTorch 2.13
        if x.untyped_storage()._cdata != slices[0].untyped_storage()._cdata:
            return None
    order = sorted(zip(starts, sizes, strict=True))
    if any(start + size > after for (start, size), (after, _) in itertools.pairwise(order)):
        return None
    return SliceLayout((rows, length, width), starts, sizes)


def slice_views(base: Tensor, layout: SliceLayout) -> list[Tensor]:
    """The slices of a ``base`` (B, L, W) that was made for them; ``packed_base`` finds it by them."""
    _PACKED[base] = layout
    return [base[..., start : start + size] for start, size in zip(layout.starts, layout.sizes, strict=True)]


def packed_base(gradients: Sequence[Tensor | None], starts: Sequence[int], width: int) -> Tensor | None:
    """The (B, L, width) that all ``gradients`` are ``slice_views`` of, at their ``starts``; None if there is none.

    The caller owns it from then on, and may write to all of it.
    """
    base = None if gradients[0] is None else gradients[0]._base  # private: the tensor that a view is of; PyTorch 2.13
    layout: SliceLayout | None = None if base is None else _PACKED.get(base)
    if base is None or layout is None or layout.shape[2] != width:
        return None
    sizes = dict(zip(layout.starts, layout.sizes, strict=True))
    for gradient, start in zip(gradients, starts, strict=True):
        if gradient is None or gradient._base is not base or gradient.storage_offset() != start:
            return None
        if gradient.shape != (*layout.shape[:2], sizes.get(start)) or gradient.stride() != base.stride():
            return None
    del _PACKED[base]
    return base


Group = tuple[list[int], SliceLayout]
"""Inputs, by number, that are slices of one tensor, and where they lie in it."""


def slice_groups(given: Sequence[Tensor | None], wanted: Sequence[bool], together: list[list[int]]) -> list[Group]:
    """Of the lists of inputs ``together`` those that get one memory for their gradients: all are wanted, and are slices
    of one tensor that is worth memory of its own."""
    found = []
    for numbers in together:
        slices = [x for number in numbers if wanted[number] and (x := given[number]) is not None]
        layout = slice_layout(*slices) if len(slices) == len(numbers) else None
        if layout is not None and _worth_it(layout):
            found.append((numbers, layout))
    return found


def allocate_gradients(given: Sequence[Tensor | None], wanted: Sequence[bool], groups: list[Group]) -> list[Tensor]:
    """``gradients_of``, but a group's first input has the memory for all of the group, and the others are empty."""
    alone = list(wanted)
    for number in (number for numbers, _ in groups for number in numbers):
        alone[number] = False
    found = gradients_of(given, alone)
    for (first, *_), layout in groups:
        found[first] = found[first].new_empty(layout.shape, dtype=given[first].dtype)  # type: ignore[union-attr]
    return found


def unpack_gradients(memory: Sequence[Tensor], groups: list[Group]) -> list[Tensor]:
    """One gradient for each input, in the memory that ``allocate_gradients`` gave."""
    found = list(memory)
    for numbers, layout in groups:
        for number, view in zip(numbers, slice_views(memory[numbers[0]], layout), strict=True):
            found[number] = view
    return found


def split_slices(joined: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """``joined.split(sizes, -1)``; on a GPU gradients of (B, L, W) that lie side by side are joined without a copy."""
    if joined.is_cuda and joined.dim() == 3 and torch.is_grad_enabled():
        return SplitSlices.apply(joined, *sizes)
    return joined.split(list(sizes), dim=-1)


class SplitSlices(torch.autograd.Function):
    """``split`` along the last dimension of (B, L, W), whose backward looks for ``packed_base``."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, *sizes: int) -> tuple[Tensor, ...]:
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        return joined.split(list(sizes), dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("split_slices")
        given = [grad for grad in grads if grad is not None]
        if not given:
            return None, *(None for _ in ctx.sizes)
        starts = [sum(ctx.sizes[:number]) for number in range(len(ctx.sizes))]
        joined = packed_base(grads, starts, sum(ctx.sizes))
        if joined is None:
            shape = given[0].shape[:-1]
            parts = zip(grads, ctx.sizes, strict=True)
            joined = torch.cat([given[0].new_zeros(*shape, n) if grad is None else grad for grad, n in parts], dim=-1)
        return joined, *(None for _ in ctx.sizes)


def _worth_it(layout: SliceLayout) -> bool:
    """Whether kernels can write to the slices four numbers at a time, and most of the memory is used."""
    width = layout.shape[2]
    return not any(number % 4 for number in (width, *layout.starts)) and width <= 8 * sum(layout.sizes)
