"""Tensors that are made again for the backward instead of being kept: from what is kept anyway, by little work.

Whoever makes such a tensor offers how. Where a block runs within ``Recipes.instead``, autograd keeps the recipe in the
tensor's place, whatever operation wants the tensor kept. Of a Mamba block these are the convolution's output, the step
sizes, and the copies of its input that LoRA drops elements of: a quarter to a half of what a block keeps, for a few
hundredths of a step's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Make = Callable[[], Tensor]
Place = tuple[int, torch.Size, tuple[int, ...]]


class Recipe:
    """How a tensor is made again: for the first of those that wait for it, and let go after the last has it."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self._waiting = 0
        self._made: Tensor | None = None

    def for_one_more(self) -> Recipe:
        """Itself, for one that will call it once."""
        self._waiting += 1
        return self

    def __call__(self) -> Tensor:
        if self._made is None:
            with torch.no_grad():
                self._made = self.make()
        made = self._made
        self._waiting -= 1
        if self._waiting <= 0:
            self._made = None
        return made


class Recipes:
    """What is offered in a block under way; one for a whole model."""

    def __init__(self) -> None:
        self._offered: dict[Place, tuple[Tensor, Recipe]] | None = None
        self.watch: Callable[[Tensor], object] = lambda tensor: None
        """Told each tensor that is kept, by an operation or for a recipe."""

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Within it, of what is offered the recipes are kept. Other hooks on saved tensors see nothing of it."""
        self._offered = {}  # with the tensors: while they are known here, their memory is no other's
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, _give):
                yield
        finally:
            self._offered = None

    def offer(self, tensor: Tensor, make: Make) -> None:
        """``make`` gives the tensor's values again, bit by bit, from tensors that are kept beside it."""
        if self._offered is not None:
            self._offered[_place(tensor)] = tensor, Recipe(make)

    def change(self, tensor: Tensor, work: Callable[[Tensor], Tensor]) -> None:
        """What was offered is changed in place by ``work`` afterwards, which may do so again with what is made."""
        if (recipe := self._recipe(tensor)) is not None:
            recipe.make = lambda make=recipe.make: work(make())  # type: ignore[misc]

    def offered(self, tensor: Tensor) -> bool:
        return self._recipe(tensor) is not None

    def source(self, tensor: Tensor) -> Make:
        """What gives ``tensor`` to another recipe: how it is made if that was offered, else what is kept of it."""
        recipe = self._recipe(tensor)
        if recipe is not None:
            return recipe.for_one_more()
        alone = tensor.detach()
        if self._offered is not None:
            self.watch(alone)
        return lambda: alone

    def _recipe(self, tensor: Tensor) -> Recipe | None:
        found = None if self._offered is None else self._offered.get(_place(tensor))
        return None if found is None else found[1]

    def _keep(self, tensor: Tensor) -> Tensor | Recipe:
        recipe = self._recipe(tensor)
        if recipe is not None:
            return recipe.for_one_more()
        self.watch(tensor)
        return tensor.detach()  # what an operation keeps of its own results would keep the operation, for good


def _place(tensor: Tensor) -> Place:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _give(kept: Tensor | Recipe) -> Tensor:
    return kept() if isinstance(kept, Recipe) else kept
