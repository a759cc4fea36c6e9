"""Other tensors in place of a model's parameters, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def swapped_parameters(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block the model computes with ``tensors``, by the names of the parameters that they stand for.

    Forward and backward belong into it, as what is recomputed in the backward reads them again. A tensor may be the
    members' (ops/member_rows.py). Not for nested use with other tensors of one name. This is what
    ``torch.func.functional_call`` does around a module's forward.
    """
    places = {name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in tensors}
    before = {name: module._parameters[leaf] for name, (module, leaf) in places.items()}
    try:
        for name, (module, leaf) in places.items():
            module._parameters[leaf] = tensors[name]  # type: ignore[assignment]
        yield
    finally:
        for name, (module, leaf) in places.items():
            module._parameters[leaf] = before[name]
