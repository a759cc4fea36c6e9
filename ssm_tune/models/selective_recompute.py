"""Selective recomputation: tensors that the backward computes again, cheaply, instead of keeping them.

Whoever makes such a tensor registers how. Where a block runs within ``SelectiveRecompute.active``, autograd keeps the
recomputation in the tensor's place, whatever operation wants the tensor kept. Of a Mamba block these are the
convolution's output, the step sizes, and the copies of its input that LoRA drops elements of: a quarter to a half of
what a block keeps, for a few hundredths of a step's time.

Autograd's hooks on saved tensors see a tensor under another Python object than the one that was registered, so tensors
are known by where they lie in memory: address, shape and strides. That is unique while the registered tensors live,
which ``SelectiveRecompute`` sees to; nothing outside it looks tensors up so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Recompute = Callable[[], Tensor]
Place = tuple[int, torch.Size, tuple[int, ...]]


class Recomputation:
    """How a tensor is computed again. It runs for the first of the operations that saved the tensor, and its result is
    kept until the last of them has it."""

    def __init__(self, recompute: Recompute) -> None:
        self.recompute = recompute
        self._waiting = 0
        self._value: Tensor | None = None

    def for_one_more(self) -> Recomputation:
        """Itself, for one more caller, which will call it once."""
        self._waiting += 1
        return self

    def __call__(self) -> Tensor:
        if self._value is None:
            with torch.no_grad():
                self._value = self.recompute()
        value = self._value
        self._waiting -= 1
        if self._waiting <= 0:
            self._value = None
        return value


class SelectiveRecompute:
    """The tensors of the block under way that can be computed again; one for a whole model."""

    def __init__(self) -> None:
        self._registered: dict[Place, tuple[Tensor, Recomputation]] | None = None
        self.on_saved: Callable[[Tensor], object] = lambda tensor: None
        """Called with each tensor that is saved, for an operation or for a recomputation."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it registered tensors are computed again in the backward. Other hooks on saved tensors see none of
        it."""
        self._registered = {}  # holds the tensors too, so that no other tensor gets their memory
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._save, _load):
                yield
        finally:
            self._registered = None

    def register(self, tensor: Tensor, recompute: Recompute) -> None:
        """``recompute`` gives the tensor's values again, bit by bit, from tensors that are saved anyway."""
        if self._registered is not None:
            self._registered[_place(tensor)] = tensor, Recomputation(recompute)

    def chain(self, tensor: Tensor, work: Callable[[Tensor], Tensor]) -> None:
        """A registered tensor is changed in place by ``work`` afterwards; recomputing it does the same."""
        if (found := self._find(tensor)) is not None:
            found.recompute = lambda before=found.recompute: work(before())  # type: ignore[misc]

    def registered(self, tensor: Tensor) -> bool:
        return self._find(tensor) is not None

    def source(self, tensor: Tensor) -> Recompute:
        """What gives ``tensor`` to another recomputation: its own recomputation if it is registered, else itself."""
        found = self._find(tensor)
        if found is not None:
            return found.for_one_more()
        alone = tensor.detach()
        if self._registered is not None:
            self.on_saved(alone)
        return lambda: alone

    def _find(self, tensor: Tensor) -> Recomputation | None:
        found = None if self._registered is None else self._registered.get(_place(tensor))
        return None if found is None else found[1]

    def _save(self, tensor: Tensor) -> Tensor | Recomputation:
        found = self._find(tensor)
        if found is not None:
            return found.for_one_more()
        self.on_saved(tensor)
        return tensor.detach()  # an operation that saved its own result would otherwise never be freed


def _place(tensor: Tensor) -> Place:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _load(saved: Tensor | Recomputation) -> Tensor:
    return saved() if isinstance(saved, Recomputation) else saved
