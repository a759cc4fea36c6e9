"""What is recomputed instead of being saved: the same values, computed once for all that ask, and freed."""

from __future__ import annotations

import gc
import weakref

import torch

from ssm_tune.models.selective_recompute import SelectiveRecompute


def test_a_recomputation_stands_for_its_tensor() -> None:
    recompute, made, watched = SelectiveRecompute(), [], []
    recompute.on_saved = watched.append
    leaf = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def make() -> torch.Tensor:
        made.append(1)
        return leaf.detach() * 2

    with recompute.active():
        x = leaf * 2
        recompute.register(x, make)
        y, z = x.sin(), x * x
        other = recompute.source(x)
    gone = weakref.ref(x)
    del x
    assert gone() is None  # nobody keeps it
    assert not made
    (gradient,) = torch.autograd.grad(y.sum() + z.sum(), leaf)
    torch.testing.assert_close(gradient, (2 * (2 * leaf).cos() + 8 * leaf).detach())
    assert len(made) == 1  # for three, and one more that is still to ask
    assert torch.equal(other(), 2 * leaf)
    assert len(made) == 1
    assert torch.equal(other(), 2 * leaf)
    assert len(made) == 2  # nothing was left of it
    assert not any(torch.equal(tensor, 2 * leaf) for tensor in watched)


def test_a_change_in_place_is_recomputed() -> None:
    recompute = SelectiveRecompute()
    leaf = torch.randn(5, requires_grad=True)
    with recompute.active():
        x = leaf * 2
        recompute.register(x, lambda: leaf.detach() * 2)
        recompute.chain(x, lambda made: made + 1)
        x = x.add_(1)
        y = x.square()
    torch.testing.assert_close(torch.autograd.grad(y.sum(), leaf)[0], (4 * (2 * leaf + 1)).detach())


def test_outside_a_block_all_is_kept() -> None:
    recompute = SelectiveRecompute()
    leaf = torch.randn(3, requires_grad=True)
    x = leaf.exp()
    recompute.register(x, lambda: torch.zeros(3))
    recompute.chain(x, lambda made: made)
    assert torch.equal(recompute.source(x)(), x)
    torch.testing.assert_close(torch.autograd.grad(x.sin().sum(), leaf)[0], (x.cos() * x).detach())


def test_an_operation_that_keeps_its_own_result_is_let_go() -> None:
    """Keeping the very tensor would tie it to the operation that made it, where no collector finds it."""
    recompute = SelectiveRecompute()
    leaf = torch.randn(3, requires_grad=True)
    with recompute.active():
        x = leaf.exp()
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


def test_a_transposed_view_is_another_tensor() -> None:
    recompute = SelectiveRecompute()
    leaf = torch.randn(4, 4, requires_grad=True)
    with recompute.active():
        x = leaf * 2
        recompute.register(x, lambda: leaf.detach() * 2)
        y = x.t().sin()
    torch.testing.assert_close(
        torch.autograd.grad(y.tril().sum(), leaf)[0], (2 * (2 * leaf).cos() * torch.ones(4, 4).triu()).detach()
    )
