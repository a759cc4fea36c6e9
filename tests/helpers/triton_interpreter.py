"""Triton's interpreter for the tests of our Triton kernels: on a CPU, with every access checked.

Import this module first, in a process of its own: TRITON_INTERPRET must be set before triton is imported. It also
repairs what the interpreter gets wrong (Triton 3.6 to 3.9): products of bfloat16 multiply the bits as integers, and
rounding to bfloat16 cuts off; and it keeps functions from being patched again at each call, half of the time otherwise.

What the interpreter cannot show: how the GPU's compiler schedules, how much shared memory it asks for, and tf32.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

Builder, Executor = interpreter.InterpreterBuilder, interpreter.GridExecutor


class WrongAccess(Exception):
    """A kernel read or wrote outside of the tensors that it was given, or two programs wrote to one place."""


class Launch:
    """The accesses of one launch: the memory of its tensors, and who wrote where."""

    def __init__(self, name: str, tensors: list[Tensor]) -> None:
        self.name = name
        self.spans = []
        for tensor in tensors:
            reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            self.spans.append((tensor.data_ptr(), tensor.data_ptr() + reach * tensor.element_size()))
        self.written: list[tuple[np.ndarray, int]] = []

    def check(self, pointers: Any, mask: Any) -> np.ndarray:
        """The addresses that ``mask`` lets through. Raises WrongAccess for one outside of all tensors."""
        places, through = np.broadcast_arrays(pointers.data.astype(np.int64), mask.data.astype(bool))
        places, size = places[through], pointers.get_element_ty().primitive_bitwidth // 8
        inside = np.zeros(places.shape, bool)
        for start, end in self.spans:
            inside |= (places >= start) & (places + size <= end)
        if not inside.all():
            raise WrongAccess(f"{self.name}: {np.count_nonzero(~inside)} of {inside.size} places are outside")
        return places

    def check_writers(self) -> None:
        """Raise WrongAccess if two programs wrote to one place."""
        if not self.written:
            return
        places = np.concatenate([places for places, _ in self.written])
        writers = np.concatenate([np.full(places.size, program) for places, program in self.written])
        order = np.lexsort((writers, places))
        places, writers = places[order], writers[order]
        twice = np.count_nonzero((places[1:] == places[:-1]) & (writers[1:] != writers[:-1]))
        if twice:
            raise WrongAccess(f"{self.name}: {twice} places are written by two programs")


class Checks:
    """What replaces the interpreter's own methods; ``launch`` is the one that runs."""

    launch: Launch
    patched: ClassVar[set[tuple[int, ...]]] = set()

    masked_load, masked_store = Builder.create_masked_load, Builder.create_masked_store
    cast, dot = Builder.cast_impl, Builder.create_dot
    on_host, call, patch = Executor._init_args_hst, Executor.__call__, staticmethod(interpreter._patch_lang)


def load(builder: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
    Checks.launch.check(pointers, mask)
    return Checks.masked_load(builder, pointers, mask, *rest)


def store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
    places = Checks.launch.check(pointers, mask)
    x, y, z = builder.grid_idx
    Checks.launch.written.append((places.ravel(), (x << 40) + (y << 20) + z))
    return Checks.masked_store(builder, pointers, value, mask, *rest)


def cast(builder: Any, source: Any, to: Any) -> Any:
    if source.dtype.scalar != tl.float32 or to.scalar != tl.bfloat16:
        return Checks.cast(builder, source, to)
    rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.uint16)
    return interpreter.TensorHandle(rounded.numpy().reshape(source.data.shape), tl.bfloat16)


def dot(builder: Any, left: Any, right: Any, *rest: Any) -> Any:
    def wide(tile: Any) -> Any:
        return Checks.cast(builder, tile, tl.float32) if tile.dtype.scalar == tl.bfloat16 else tile

    return Checks.dot(builder, wide(left), wide(right), *rest)


def on_host(executor: Any, args: Any, kwargs: Any) -> Any:
    found = Checks.on_host(executor, args, kwargs)
    tensors = [value for value in (*found[0], *found[1].values()) if isinstance(value, Tensor)]
    Checks.launch = Launch(executor.fn.__name__, tensors)
    return found


def call(executor: Any, *args: Any, **kwargs: Any) -> None:
    Checks.patched.clear()
    Checks.call(executor, *args, **kwargs)
    Checks.launch.check_writers()


def patch(function: Any) -> Any:
    modules = [x for x in function.__globals__.values() if inspect.ismodule(x) and x in (tl, tl.core)]
    key = tuple(sorted(map(id, modules)))
    if key in Checks.patched:
        return interpreter._LangPatchScope()
    Checks.patched.add(key)
    return Checks.patch(function)


Builder.create_masked_load, Builder.create_masked_store = load, store
Builder.cast_impl, Builder.create_dot = cast, dot
Executor._init_args_hst, Executor.__call__, interpreter._patch_lang = on_host, call, patch


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Uninitialised memory holds NaN, so that nothing unwritten passes."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def sum_partials(jobs: list[tuple[Tensor, Tensor]]) -> None:
    """In place of the CUDA kernel that adds what programs made apart."""
    for partial, out in jobs:
        out.copy_(partial.sum(0).view(out.shape))
