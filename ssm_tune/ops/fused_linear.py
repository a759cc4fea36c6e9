"""Products with weights whose gradients are added or joined without a pass over memory of their own.

A tensor that is read twice gets its two gradients added. These products return their input beside their output, for its
second reader: that reader's gradient then arrives first, and the product's own is added to it in place, by ``addmm``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_tune.ops.autograd import refuse_a_second_derivative
from ssm_tune.ops.member_rows import by_member
from ssm_tune.ops.packed_gradients import packed_base


def linear_with_input(x: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
    """``x @ W.T`` (..., out) for x (..., in) and W (out, in), the ``rows`` stacked; and x for its other reader.

    Rows (M, n, in) are those of M members, which an x (B, L, in) then belongs to (ops/member_rows.py).
    """
    if any(row.dim() == 3 for row in rows):
        return _member_linear(x, rows), x
    if not torch.is_grad_enabled():
        return F.linear(x, _below(rows)), x
    product, same = _LinearWithInput.apply(x, *rows)
    return product, same


def split_linear(joined: Tensor, weight: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split ``joined`` (B, L, sum of sizes) in three; also ``first @ weight.T`` for weight (out, sizes[0]).

    Returns the product (B, L, out) and the three slices.
    """
    if not torch.is_grad_enabled():
        first, second, third = joined.split(sizes, dim=-1)
        return F.linear(first, weight), first, second, third
    product, first, second, third = _SplitLinear.apply(joined, weight, *sizes)
    return product, first, second, third


def batched_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.mT`` for x (parts, rows, in) and weight (parts, out, in): (parts, rows, out).

    Unlike that of ``torch.matmul``, the weight's gradient is contiguous and need not be copied.
    """
    return _BatchedLinear.apply(x, weight)


def add_low_rank(out: Tensor, low: Tensor, starts: list[int], scale: float, *ups: Tensor) -> Tensor:
    """Add ``scale * low[i] ups[i]^T`` to the columns of ``out`` (B, L, D) from starts[i] on, in place.

    low: (parts, B L, r); ups: (columns, r) each, or those of M members, (M, columns, r) (ops/member_rows.py).
    """
    return _AddLowRank.apply(out, low, starts, scale, *ups)


def _member_linear(x: Tensor, rows: tuple[Tensor, ...]) -> Tensor:
    """One product with all that members share, and one with all that is their own."""
    shared, own = ([row for row in rows if row.dim() == dims] for dims in (2, 3))
    found: dict[int, Iterator[Tensor]] = {}
    product = batched_linear(by_member(x, own[0].shape[0]), torch.cat(own, dim=1)).view(*x.shape[:2], -1)
    found[3] = iter(product.split([row.shape[1] for row in own], dim=-1))
    if not shared:
        return product
    found[2] = iter(F.linear(x, _below(tuple(shared))).split([row.shape[0] for row in shared], dim=-1))
    return torch.cat([next(found[row.dim()]) for row in rows], dim=-1)


def _below(rows: tuple[Tensor, ...]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _flat(x: Tensor) -> Tensor:
    """(..., n) -> (all, n) where it lies."""
    return x.view(-1, x.shape[-1]) if x.is_contiguous() else x.flatten(0, -2)


def _add_product(out: Tensor, left: Tensor, right: Tensor, beta: float, scale: float) -> None:
    """``beta out + scale left @ right`` in place: of matrices, or of a batch of them."""
    add = Tensor.addmm_ if out.dim() == 2 else Tensor.baddbmm_
    add(out, left, right, beta=beta, alpha=scale)


class _LinearWithInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
        trained = any(ctx.needs_input_grad[1:])
        ctx.save_for_backward(x if trained else None, *rows)
        ctx.set_materialize_grads(False)
        return F.linear(x, _below(rows)), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("linear_with_input")
        (dout, dx), (x, *rows), wanted = grads, ctx.saved_tensors, ctx.needs_input_grad
        if dout is None:
            return dx, *(None for _ in rows)
        if wanted[0] and dx is None:
            dx = dout @ _below(tuple(rows))
        elif wanted[0]:
            dx = dx.contiguous()  # type: ignore[union-attr]
            _flat(dx).addmm_(_flat(dout), _below(tuple(rows)))
        drows, start = [], 0
        for own, want in zip(rows, wanted[1:], strict=True):
            piece = _flat(dout)[:, start : start + own.shape[0]]
            drows.append(piece.t() @ _flat(x) if want else None)
            start += own.shape[0]
        return dx, *drows


class _SplitLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor, weight: Tensor, *sizes: int) -> tuple[Tensor, ...]:
        first, second, third = joined.split(sizes, dim=-1)
        ctx.sizes = sizes
        ctx.save_for_backward(joined if ctx.needs_input_grad[1] else None, weight)
        ctx.set_materialize_grads(False)
        return F.linear(first, weight), first, second, third

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("split_linear")
        (dout, dfirst, *dothers), (joined, weight), sizes = grads, ctx.saved_tensors, ctx.sizes
        dweight = None
        if ctx.needs_input_grad[1] and dout is not None:
            dweight = _flat(dout).t() @ _flat(joined[..., : sizes[0]])
        if not ctx.needs_input_grad[0] or all(grad is None for grad in grads):
            return None, dweight, *(None for _ in sizes)
        base = packed_base(dothers, (sizes[0], sizes[0] + sizes[1]), sum(sizes))
        if base is not None and dout is not None:
            own = _flat(base)[:, : sizes[0]]
            torch.mm(_flat(dout), weight, out=own)
            if dfirst is not None:
                own += _flat(dfirst)
            return base, dweight, *(None for _ in sizes)
        shape = next(grad for grad in grads if grad is not None).shape[:-1]
        parts = [
            weight.new_zeros(*shape, size) if grad is None else grad
            for grad, size in zip((dfirst, *dothers), sizes, strict=True)
        ]
        if dout is not None:
            parts[0] = parts[0] + dout @ weight
        return torch.cat(parts, dim=-1), dweight, *(None for _ in sizes)


class _BatchedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return torch.bmm(x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("batched_linear")
        (dout,), (x, weight), (want_x, want_weight) = grads, ctx.saved_tensors, ctx.needs_input_grad
        return torch.bmm(dout, weight) if want_x else None, torch.bmm(dout.mT, x) if want_weight else None


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, low: Tensor, starts: list[int], scale: float, *ups: Tensor) -> Tensor:
        members = ups[0].shape[:-2]
        flat = out.view(*members, -1, out.shape[-1])
        for own, start, up in zip(low, starts, ups, strict=True):
            _add_product(flat[..., start : start + up.shape[-2]], own.view(*members, -1, up.shape[-1]), up.mT, 1, scale)
        ctx.mark_dirty(out)
        ctx.starts, ctx.scale = starts, scale
        ctx.save_for_backward(low, *ups)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_a_second_derivative("add_low_rank")
        (dout,), (low, *ups) = grads, ctx.saved_tensors
        members = ups[0].shape[:-2]
        flat = _flat(dout).unflatten(0, (*members, -1))
        columns = [flat[..., start : start + up.shape[-2]] for start, up in zip(ctx.starts, ups, strict=True)]
        # beta=0: what lies in the new memory does not count
        dlow = torch.empty_like(low, memory_format=torch.contiguous_format)
        dups = [torch.empty_like(up) for up in ups]
        for number, (own, up) in enumerate(zip(columns, ups, strict=True)):
            into, by = (x[number].unflatten(0, (*members, -1)) for x in (dlow, low))
            _add_product(into, own, up, 0, ctx.scale)
            _add_product(dups[number], own.mT, by, 0, ctx.scale)
        return dout, dlow, None, None, *dups
