"""Low-rank updates of a block's projections, as the slot ``updates`` takes them.

    W  rows of a projection (out, in)    A (r, in), B (out, r)  the update's factors    m (out,) magnitudes of DoRA

LoRA (Hu et al. 2021, arXiv 2106.09685) computes W + s B A. PiSSA (Meng et al. 2024, arXiv 2404.02948) starts A and B at
W's leading singular vectors and takes them off W again; here W stays as it is, and the update is s (B A - B0 A0) with
the fixed start B0, A0. DoRA (Liu et al. 2024, arXiv 2402.09353) scales each row of that sum to the length m.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_tune.models.adapter_slots import ProjectionChange, Randomness
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.selective_recompute import SelectiveRecompute
from ssm_tune.ops.fused_linear import add_low_rank, batched_linear, linear_with_input
from ssm_tune.ops.keyed_dropout import keyed_dropout
from ssm_tune.ops.member_rows import cat_parameters


def principal_factors(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank), in float32 on the CPU, with ``scale`` B A the best approximation of ``weight``
    (out, in) that has so low a rank; both hold the roots of the singular values (PiSSA, section 3)."""
    U, sizes, V = torch.linalg.svd(weight.float(), full_matrices=False)
    roots = (sizes[:rank] / scale).sqrt()
    factors = roots.unsqueeze(1) * V[:rank], U[:, :rank] * roots
    return factors[0].cpu().contiguous(), factors[1].cpu().contiguous()


class LowRankUpdate(nn.Module):
    """The weights of ``x -> scale * dropout(x) A^T B^T``, A (r, in) and B (out, r), which is added to the rows of a
    projection's output from ``start`` on.

    fixed: whether the update is counted from its start: A and B as they are now are kept as A0 and B0.
    """

    def __init__(self, A: Tensor, B: Tensor, start: int, scale: float, fixed: bool = False) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(A), nn.Parameter(B)
        self.start, self.end, self.scale = start, start + B.shape[0], scale
        self.fixed = fixed
        if fixed:
            self.register_buffer("A0", A.clone())
            self.register_buffer("B0", B.clone())

    def factors(self) -> tuple[Tensor, Tensor]:
        """(r, in) and (out, r) whose product is the update; with a fixed start of twice the rank."""
        if not self.fixed:
            return self.A, self.B
        A = cat_parameters([self.A, self.get_buffer("A0")], dims=2, dim=0)
        return A, cat_parameters([self.B, -self.get_buffer("B0")], dims=2, dim=1)

    def merged(self, weight: Tensor) -> Tensor:
        """The rows (out, in) of the projection with the update, in float64 on the CPU, where they have to be."""
        A, B = (factor.cpu().double() for factor in self.factors())
        return weight.double() + self.scale * (B @ A)


class WeightDecomposedUpdate(LowRankUpdate):
    """The update of DoRA: rows W + s B A, each scaled to its length in ``magnitude`` (out,), which is W's at first.

    weight: the rows W (out, in). The rows' present lengths are constants for the gradient (the paper's section 4.3).
    """

    def __init__(self, A: Tensor, B: Tensor, start: int, scale: float, fixed: bool, weight: Tensor) -> None:
        super().__init__(A, B, start, scale, fixed)
        self.magnitude = nn.Parameter(self._lengths(weight.to(A.device)))

    @torch.no_grad()
    def _lengths(self, weight: Tensor) -> Tensor:
        """Of the updated rows, (out,), in float32 at least."""
        A, B = self.factors()
        wide = torch.promote_types(torch.promote_types(A.dtype, weight.dtype), torch.float32)
        return torch.linalg.vector_norm(weight.to(wide) + self.scale * (B.to(wide) @ A.to(wide)), dim=1)

    def factor(self, weight: Tensor) -> Tensor:
        """What each row of the output is scaled by, (out,), in float32 at least."""
        lengths = self._lengths(weight)
        return self.magnitude.to(lengths.dtype) / lengths

    def merged(self, weight: Tensor) -> Tensor:
        rows = super().merged(weight)
        factor = self.magnitude.cpu().double() / torch.linalg.vector_norm(rows, dim=1)
        return factor.unsqueeze(1) * rows


class ProjectionUpdate(ProjectionChange):
    """The updates of one projection, each on its own rows of the output.

    They share rank and scale, so that all dropouts, and all products with A, are one operation each.

    parts: by name, in the order of their rows. columns: (parts, in) int32 on the input's device, the bits that the
    dropouts' decisions depend on beside the rows' (ops/keyed_dropout).
    """

    columns: Tensor

    def __init__(
        self,
        parts: dict[str, LowRankUpdate],
        columns: Tensor,
        dropout: float,
        randomness: Randomness,
        selective_recompute: SelectiveRecompute,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.randomness = randomness
        self.selective_recompute = selective_recompute
        self.parts = nn.ModuleDict(parts)
        self.register_buffer("columns", columns, persistent=False)

    @property
    def updates(self) -> list[LowRankUpdate]:
        """The parts, in the order of their rows."""
        return list(self.parts.values())  # type: ignore[arg-type]

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def forward(self, x: Tensor, out: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Add the updates for the projection's input to its output, in place; that, and x for its other reader.

        x: (B, L, in) or (R, in) without dropout; out: (..., out); weight: the projection's, (out, in).
        """
        factors = [update.factors() for update in self.updates]
        low, x, _ = self._down(x, [A for A, _ in factors])
        starts, ups = [update.start for update in self.updates], [B.to(x.dtype) for _, B in factors]
        scale = self.updates[0].scale / (1 - self.dropout if self._drops else 1)
        self.selective_recompute.chain(out, lambda before: add_low_rank(before, low.detach(), starts, scale, *ups))
        return add_low_rank(out, low, starts, scale, *ups), x

    def _down(self, x: Tensor, downs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Each part's input times its A, (parts, all, r); x for its other reader; and each part's input (parts, all,
        in) where elements of it are dropped."""
        # (parts, r, in), or the members' (M, parts, r, in)
        A = (torch.stack(downs, dim=-3) if len(downs) > 1 else downs[0].unsqueeze(-3)).to(x.dtype)
        if self._drops:
            flat, x = self._dropped(x)
            A = A.movedim(-3, 0).flatten(0, -3)  # a member's rows of each part meet its own A
            low = batched_linear(flat.view(A.shape[0], -1, flat.shape[-1]), A)
            return low.view(len(downs), flat.shape[1], -1), x, flat
        low, x = linear_with_input(x, A.flatten(-3, -2))
        return low.flatten(0, -2).unflatten(-1, (len(downs), -1)).movedim(-2, 0), x, None

    def _dropped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For each part a copy of x (B, L, in) with elements dropped, (parts, B L, in); and x for its other reader."""
        rows, recompute = self.randomness.rows(x), self.selective_recompute
        # recomputing a single copy saves nothing: x would be kept in its place
        worthwhile = len(self.parts) > 1 or recompute.registered(x)
        source = recompute.source(x) if worthwhile else None
        dropped, x = keyed_dropout(x, rows, self.columns, self.dropout)
        flat = dropped.flatten(1, -2)
        if source is not None:

            def again() -> Tensor:
                return keyed_dropout(source(), rows, self.columns, self.dropout)[0].flatten(1, -2)

            recompute.register(flat, again)
        return flat, x

    def merge(self, weight: Tensor) -> None:
        """Write the updates into the projection's weight (out, in) on the CPU, which is rounded once."""
        for update in self.updates:
            rows = slice(update.start, update.end)
            weight[rows] = update.merged(weight[rows]).to(weight.dtype)


class DecomposedProjectionUpdate(ProjectionUpdate):
    """The same with ``WeightDecomposedUpdate`` parts, by plain operations of PyTorch that write to new memory.

    With dropout the pretrained rows are scaled on the dropped input as well, as in the authors' code and in peft.
    """

    def forward(self, x: Tensor, out: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The updated output in new memory, and x for its other reader; arguments as of ``ProjectionUpdate``."""
        factors = [update.factors() for update in self.updates]
        low, x, dropped = self._down(x, [A for A, _ in factors])
        kept = 1 - self.dropout if dropped is not None else 1.0
        pieces: list[Tensor] = []
        end = 0
        for number, (update, (_, B)) in enumerate(zip(self.updates, factors, strict=True)):
            assert isinstance(update, WeightDecomposedUpdate)
            rows = slice(update.start, update.end)
            own, pretrained = out[..., rows], weight[rows]
            scaled = own if dropped is None else F.linear(dropped[number], pretrained.to(x.dtype)).view_as(own) / kept
            factor = update.factor(pretrained)
            added = F.linear(low[number], B.to(x.dtype)).view_as(own) * (update.scale / kept)
            factor_less_one = (factor - 1).to(x.dtype)
            pieces += [out[..., end : update.start], own + factor_less_one * scaled + factor.to(x.dtype) * added]
            end = update.end
        return torch.cat([*pieces, out[..., end:]], dim=-1), x


def projection_updates(model: Mamba) -> list[ProjectionUpdate]:
    """All that the model's slots hold."""
    found = [update for mixer in model.mixers for update in mixer.injection.updates.values()]
    return [update for update in found if isinstance(update, ProjectionUpdate)]
