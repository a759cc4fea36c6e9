"""Parameters that some rows of a batch have for themselves: several runs of one model, computed in one batch.

A batch of B rows may belong to M *members*: the rows of one lie behind those of another, and each has B / M of them.
A parameter that all rows share has its usual shape, one that each member has of its own that shape behind M.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Parameters = Mapping[str, tuple[Tensor | None, int]]
"""By name: a parameter, and how many dimensions it has where all rows share it."""


def by_row(value: Tensor, dims: int, rows: int) -> Tensor:
    """A parameter that all rows share as it is; the members' (M, ...) once a row, (B, ...)."""
    if value.dim() == dims or value.shape[0] == rows:
        return value
    members = value.shape[0]
    return value.unsqueeze(1).expand(members, rows // members, *value.shape[1:]).flatten(0, 1)


def over_time(value: Tensor, dims: int, rows: int) -> Tensor:
    """The same, to be broadcast over the positions of a (B, L, ...)."""
    return value if value.dim() == dims else by_row(value, dims, rows).unsqueeze(1)


def by_member(x: Tensor, members: int) -> Tensor:
    """(B, L, ...) -> (M, B / M L, ...)"""
    return x.unflatten(0, (members, -1)).flatten(1, 2)


def member_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight`` (B, L, k) for x (B, L, n) and weight (n, k), or each member's own (M, n, k)."""
    if weight.dim() == 2:
        return torch.matmul(x, weight)
    return torch.bmm(by_member(x, weight.shape[0]), weight).view(*x.shape[:2], -1)


def cat_parameters(parts: Sequence[Tensor], dims: int, dim: int) -> Tensor:
    """Join parameters of ``dims`` dimensions along their dimension ``dim``; where one is the members', so is all."""
    members = [part.shape[0] for part in parts if part.dim() > dims]
    if not members:
        return torch.cat(list(parts), dim=dim)
    whole = [part if part.dim() > dims else part.expand(members[0], *part.shape) for part in parts]
    return torch.cat(whole, dim=dim + 1)


def count_members(parameters: Parameters) -> int | None:
    """M where a parameter is the members'; None where all rows share all of them."""
    found = [value.shape[0] for value, dims in parameters.values() if value is not None and value.dim() > dims]
    return found[0] if found else None


def fits_rows(shape: Sequence[int], shared: Sequence[int], rows: int) -> bool:
    """Whether a parameter has the shape ``shared`` of one that all rows share, or that of one of members."""
    if tuple(shape) == tuple(shared):
        return True
    return tuple(shape[1:]) == tuple(shared) and len(shape) > len(shared) and shape[0] > 0 and rows % shape[0] == 0


def run_by_member(
    operation: Callable[..., Any], members: int, batch: Mapping[str, Tensor | None], parameters: Parameters
) -> Any:
    """``operation`` on each member's rows by themselves, with its results joined: for kernels that take parameters of
    all rows alone. batch: what has rows, by the argument's name; a result is a tensor (B, ...) or a tuple of them."""
    found = []
    for member in range(members):
        own = {name: None if x is None else x.chunk(members)[member] for name, x in batch.items()}
        for name, (value, dims) in parameters.items():
            own[name] = value[member] if value is not None and value.dim() > dims else value
        found.append(operation(**own))
    if isinstance(found[0], Tensor):
        return torch.cat(found)
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
