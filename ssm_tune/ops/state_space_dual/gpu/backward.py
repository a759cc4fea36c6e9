"""The launches of the backward of ``state_space_dual`` on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssm_tune.ops.cuda.sums import sum_partials
from ssm_tune.ops.packed_gradients import allocate_gradients, slice_groups, unpack_gradients
from ssm_tune.ops.state_space_dual.gpu.chunks import head_gradients, shared_gradients
from ssm_tune.ops.state_space_dual.gpu.layout import HEADS, SHARED, WALK, Layout, Tuning
from ssm_tune.ops.state_space_dual.gpu.steps import step_gradients
from ssm_tune.ops.state_space_dual.gpu.walks import walk_gradients

NAMES = ("x", "dt", "A_log", "B", "C", "D", "dt_bias", "initial_state", "state_offset", "output_offset")
"""The arguments that may require gradients."""


class Backward:
    """One backward: the walk from the end, the gradients within chunks, and sums of what programs made apart.

    given: the arguments by name, and steps, totals, rests and starts from the forward; wanted: names of arguments.
    """

    def __init__(
        self, given: dict[str, Any], wanted: set[str], dy: Tensor, d_final: Tensor | None, layout: Layout
    ) -> None:
        self.given, self.wanted, self.dy, self.d_final, self.layout = given, wanted, dy, d_final, layout
        self.grads = _allocate(given, wanted)
        self.sums: list[tuple[Tensor, Tensor]] = []
        self.want_steps = bool(wanted & {"dt", "A_log", "dt_bias"})
        # d_A_log can be much smaller than the sums that d(dt) has in common with it
        self.close = layout.exact or "A_log" in wanted

    def run(self) -> dict[str, Tensor]:
        starts = self.given["starts"]
        starts = starts if starts is not None else self.layout.only_border(self.given["initial_state"])
        ends = self._walk()
        if self.want_steps:
            self._steps(self._heads(starts, ends))
        elif self.wanted & {"x", "D", "output_offset"}:
            self._heads(starts, ends)
        if self.wanted & {"B", "C"}:
            self._shared(starts, ends)
        sum_partials(self.sums)
        return {name: grad.view(self.given[name].shape) for name, grad in self.grads.items()}

    def _partial(self, name: str, *shape: int) -> Tensor | None:
        """Memory for what programs make apart, float32, to be added over its first dimension; None if not wanted."""
        if name not in self.wanted:
            return None
        partial = self.dy.new_empty(shape, dtype=torch.float32)
        self.sums.append((partial, self.grads[name]))
        return partial

    def _walk(self) -> Tensor | None:
        """Gradients of the states at the chunks' ends, (B, chunks, H, ...); None if all are 0."""
        layout, dy, C = self.layout, self.dy, self.given["C"]
        made = layout.border_states(dy) if layout.chunks > 1 and (self.want_steps or self.wanted & {"x", "B"}) else None
        per_row = "initial_state" in self.wanted and self.given["initial_state"].dim() == 4
        d_start = self.grads["initial_state"] if per_row else self._partial("initial_state", layout.rows, *layout.state)
        d_offset = self._partial("state_offset", layout.rows, *layout.state)
        if made is not None or d_start is not None or d_offset is not None:
            walk_gradients[layout.grid_of_walks()](
                dy, C, self.given["totals"], self.d_final, made, d_start, d_offset,
                *dy.stride()[:3], *C.stride()[:3], layout.length, layout.chunks, layout.heads, layout.share,
                CARRY=made is not None or d_start is not None, **layout.options_of(WALK),
            )  # fmt: skip
        return made if layout.chunks > 1 else layout.only_border(self.d_final)

    def _heads(self, starts: Tensor | None, ends: Tensor | None) -> list[Tensor | None]:
        """Launches ``head_gradients``; returns the vectors for ``step_gradients``: None what is 0 or not wanted."""
        given, dy, layout = self.given, self.dy, self.layout
        d_step, d_later, d_earlier = (layout.vector(dy) if self.want_steps else None for _ in range(3))
        d_put = layout.vector(dy) if self.want_steps and ends is not None else None
        d_through = None
        if d_put is not None and starts is not None:
            d_through = dy.new_empty(layout.rows, layout.heads, layout.chunks, dtype=torch.float32)
        vectors = [d_step, d_later, d_earlier, d_put, d_through]
        grid, sizes = self._programs(HEADS)
        head_gradients[grid](
            dy, given["x"], given["B"], given["C"], given["D"], given["steps"], given["totals"], given["rests"],
            starts, ends, self.grads.get("x"), self._partial("D", grid[0], layout.heads),
            self._partial("output_offset", grid[0], layout.heads, layout.width), *vectors,
            *(self.grads["x"].stride()[:2] if "x" in self.wanted else (0, 0)),
            *self._strides(starts, ends), *sizes, **layout.options_of(HEADS), **layout.inner_strides(),
            CLOSE=self.close,
        )  # fmt: skip
        return vectors

    def _shared(self, starts: Tensor | None, ends: Tensor | None) -> None:
        given, layout = self.given, self.layout
        grid, sizes = self._programs(SHARED)
        partials = (self._partial(name, sizes[-1], *given[name].shape) for name in ("B", "C"))
        shared_gradients[(*grid, layout.parts)](
            self.dy, given["x"], given["B"], given["C"], given["steps"], given["totals"], given["rests"],
            given["state_offset"], starts, ends, *partials,
            *self._strides(starts, ends), *sizes, **layout.options_of(SHARED), **layout.inner_strides(),
        )  # fmt: skip

    def _strides(self, starts: Tensor | None, ends: Tensor | None) -> tuple[int, ...]:
        tensors = (self.dy, *(self.given[name] for name in ("x", "B", "C")))
        outer = (number for tensor in tensors for number in tensor.stride()[:3])
        return *outer, *self.layout.strides(starts), *self.layout.strides(ends)

    def _programs(self, kernel: Tuning) -> tuple[tuple[int, int], tuple[int, ...]]:
        layout = self.layout
        grid, each, splits = layout.programs(kernel, self.dy.device)
        return grid, (layout.length, layout.chunks, layout.heads, layout.share, each, splits)

    def _steps(self, vectors: list[Tensor | None]) -> None:
        given, layout = self.given, self.layout
        grid = layout.grid_of_steps()
        step_gradients[grid](
            given["dt"], given["A_log"], given["dt_bias"], given["lengths"], given["steps"], given["totals"], *vectors,
            self.grads.get("dt"), *(self._partial(name, grid[0], layout.heads) for name in ("A_log", "dt_bias")),
            *given["dt"].stride(), layout.length, layout.chunks, layout.heads, *layout.limits,
            **layout.options_of_steps(), CLOSE=self.close,
        )  # fmt: skip


def _allocate(given: dict[str, Any], wanted: set[str]) -> dict[str, Tensor]:
    """Memory for the gradients: of x, B and C as (B, L, n), and side by side where these are slices of one tensor."""
    tensors = [given[name].flatten(2) if name in ("x", "B", "C") else given[name] for name in NAMES]
    wants = [name in wanted for name in NAMES]
    groups = slice_groups(tensors, wants, [[NAMES.index(name) for name in ("x", "B", "C")]])
    found = unpack_gradients(allocate_gradients(tensors, wants, groups), groups)
    return {name: memory for name, memory in zip(NAMES, found, strict=True) if name in wanted}
