"""A layer that stands in a model for a recurrent mixer: transformers' forward, with an adapter's part added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ssm_tune.peft.config import RecurrentConfig
from ssm_tune.peft.fast_path import fits_mamba2, mamba1_kernels_run, mamba2_kernels_run, scan_mamba1, scan_mamba2
from ssm_tune.peft.mixers import MAMBA1, Mixer, describe, forward_with, originals
from ssm_tune.peft.terms import added, gated, step_sizes, sum_dtype


class RecurrentLayer(nn.Module, BaseTunerLayer):
    """A recurrent mixer with adapters. A subclass says what they add to a scan over a sequence and to one step.

    ``path`` says what the last forward scanned with: "transformers" (its own functions, or the packages' kernels that
    they stand for) or "ssm_tune kernels".
    """

    unmergeable = "it is no weight of the model"
    has_fast_path = True
    """Whether ``ssm_tune.ops.selective_scan`` can do what the method does."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.mixer: Mixer = describe(base_layer)
        self.path = "transformers"
        self._mask: Tensor | None = None
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self._bind()

    # -- the forward

    def _bind(self) -> None:
        family = self.mixer.family
        self._original = originals(self.base_layer)
        one = family is MAMBA1
        replaced: dict[str, Callable[..., Any]] = {
            family.scan: self._scan_mamba1 if one else self._scan_mamba2,
            family.step: self._step_mamba1 if one else self._step_mamba2,
            family.fused: _no_fused_kernel,
        }
        self._forward, self._mask_position = forward_with(self.base_layer, replaced)

    def __getstate__(self) -> dict[str, Any]:
        """Without the forward, which is made of functions bound to this very layer: copies make their own."""
        bound = ("_forward", "_mask_position", "_original")
        return {name: value for name, value in self.__dict__.items() if name not in bound}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bind()

    def _replicate_for_data_parallel(self) -> RecurrentLayer:
        replica = super()._replicate_for_data_parallel()
        replica._bind()
        return replica

    @property
    def active(self) -> list[str]:
        """The adapters that take part: active, and present on this layer."""
        if self.disable_adapters:
            return []
        present = self._get_available_adapters()
        return [name for name in self.active_adapters if name in present]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The mixer's output (B, L, d_model); arguments as the mixer's own."""
        if not self.active:
            self.path = "transformers"
            return self.base_layer(*args, **kwargs)
        hook = getattr(self.base_layer, "_hf_hook", None)  # accelerate's, for a model spread over devices
        if hook is not None:
            args, kwargs = hook.pre_forward(self.base_layer, *args, **kwargs)
        position = self._mask_position
        mask = args[position] if len(args) > position else kwargs.get("attention_mask")
        self._refuse_packed(kwargs)
        self._mask = mask
        out = self._forward(self.base_layer, *args, **kwargs)
        self._mask = None
        return out if hook is None else hook.post_forward(self.base_layer, out)

    def _refuse_packed(self, kwargs: dict[str, Any]) -> None:
        """Refuse several sequences in one row, where the adapter acts on a sequence's start."""

    # -- the functions that the mixer's forward calls instead of transformers' own

    def _scan_mamba1(
        self,
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        **kwargs: Any,
    ) -> Any:
        """hidden_states, dt, z: (B, D, L); A: (D, N); B, C: (B, N, L)."""
        mask = self._usable_mask(hidden_states.shape[2])
        inputs = (hidden_states, dt, A, B, C, D, z, delta_bias)
        y: Tensor
        state: Tensor | None
        if self.has_fast_path and delta_softplus and mamba1_kernels_run(hidden_states, A):
            self.path = "ssm_tune kernels"
            y, state = scan_mamba1(*inputs, mask=mask, **self.fast_arguments())
        else:
            self.path = "transformers"
            scan = self._original[MAMBA1.scan]
            out = scan(*inputs, delta_softplus=delta_softplus, return_last_state=return_last_state, **kwargs)
            y, state = out if return_last_state else (out, None)
            term, state = self.beside_scan(
                C.transpose(1, 2).unsqueeze(2),
                lambda: step_sizes(dt.transpose(1, 2), delta_bias, delta_softplus, None, mask),
                A,
                state,
            )
            y = added(y, None if term is None else gated(term.transpose(1, 2), z))
            y, state = self.beside_mamba1(y, state, inputs, delta_softplus, return_last_state)
        return (y, state) if return_last_state else y

    def _step_mamba1(
        self,
        state: Tensor,
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        dt_bias: Tensor | None = None,
        dt_softplus: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """state: (B, D, N), changed in place; hidden_states, dt, z: (B, D); B, C: (B, N)."""
        kwargs |= {"z": z, "dt_bias": dt_bias, "dt_softplus": dt_softplus}
        own, further = self.split_state(state)
        y = self._original[self.mixer.family.step](own, hidden_states, dt, A, B, C, D, **kwargs)
        y = self.beside_step(y, further, hidden_states, dt, kwargs)
        return added(y, self._offset_term(C[:, None, None], z))

    def _scan_mamba2(
        self,
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        chunk_size: int,
        D: Tensor | None = None,
        dt_bias: Tensor | None = None,
        initial_states: Tensor | None = None,
        dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        return_final_states: bool = False,
        **kwargs: Any,
    ) -> Any:
        """hidden_states: (B, L, H, P); dt: (B, L, H); A: (H,); B, C: (B, L, G, N); states: (B, H, P, N)."""
        inputs = (hidden_states, dt, A, B, C)
        options = kwargs | {
            "D": D,
            "dt_bias": dt_bias,
            "initial_states": initial_states,
            "dt_softplus": dt_softplus,
            "dt_limit": dt_limit,
            "return_final_states": return_final_states,
        }
        mask = self._usable_mask(dt.shape[1])
        if fits_mamba2(options) and mamba2_kernels_run(hidden_states, B.shape[3]):
            self.path = "ssm_tune kernels"
            return scan_mamba2(*inputs, self.fast_arguments(), mask, **options)
        self.path = "transformers"
        out = self._original[self.mixer.family.scan](*inputs, chunk_size=chunk_size, **options)
        y, state = out if return_final_states else (out, None)
        flat = None if state is None else state.flatten(1, 2)
        term, last = self.beside_scan(
            C,
            lambda: step_sizes(dt, dt_bias, dt_softplus, dt_limit, mask),
            A,
            flat,
            continued=initial_states is not None,
        )
        if term is not None:
            term = gated(term.view_as(y), kwargs.get("z"))
        y = added(y, term)
        return (y, None if last is None or state is None else last.view_as(state)) if return_final_states else y

    def _step_mamba2(
        self,
        state: Tensor,
        hidden_states: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """state: (B, H, P, N), changed in place; hidden_states, z: (B, H, P); B, C: (B, G, N)."""
        y = self._original[self.mixer.family.step](state, hidden_states, dt, A, B, C, D, z=z, **kwargs)
        return added(y, self._offset_term(C[:, None], z, y.shape))

    def _usable_mask(self, length: int) -> Tensor | None:
        """The attention mask (B, L), where there is one of the scan's length."""
        return None if self._mask is None or self._mask.shape[-1] != length else self._mask

    def _offset_term(self, C: Tensor, z: Tensor | None, shape: torch.Size | None = None) -> Tensor | None:
        """What the offset adds to one position, C (B, 1, G, N), gated where the step gates: (B, D) or ``shape``."""
        term = self.offset(C.to(sum_dtype(C.dtype)))
        if term is None:
            return None
        term = term.expand(C.shape[0], 1, -1)[:, 0]
        return gated(term if shape is None else term.reshape(shape), z)

    # -- what a method adds

    def offset(self, C: Tensor) -> Tensor | None:
        """What is added to the output of every position, (B, L, D) or (1, 1, D), for C (B, L, G, N)."""
        return None

    def beside_scan(
        self, C: Tensor, sizes: Callable[[], Tensor], A: Tensor, state: Tensor | None, continued: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """What is added to a scan's output, (B, L, D), and the last state (B, D, N), where it is asked for.

        sizes: gives the step sizes (B, L, heads); continued: whether the scan went on from a state in the cache.
        """
        term = self.offset(C.to(sum_dtype(C.dtype)))
        return None if term is None else term.expand(C.shape[0], C.shape[1], -1), state

    def beside_mamba1(
        self, y: Tensor, state: Tensor | None, inputs: tuple[Any, ...], softplus: bool, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The output (B, D, L) and the last state of a Mamba-1 scan with what a second scan adds."""
        return y, state

    def split_state(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """A cached state's own part, and that of further states."""
        return state, None

    def beside_step(self, y: Tensor, further: Tensor | None, x: Tensor, dt: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The output (B, D) of one step with what further states add."""
        return y

    def fast_arguments(self) -> dict[str, Any]:
        """The adapter as arguments of the scans in ``fast_path``."""
        raise NotImplementedError

    # -- what peft asks for

    @classmethod
    def check_fit(cls, mixers: list[Mixer], config: Any) -> None:
        """Raise ValueError where a configuration does not fit these mixers."""

    def add_adapter(self, name: str, config: Any) -> None:
        """Add fresh tensors for a new adapter, in float32, or in float64 for a mixer in float64."""
        raise NotImplementedError

    def set_weighted(self, name: str, adapters: list[str], weights: list[float]) -> None:
        """Fill an adapter with the weighted sum of others, as far as they are on this layer."""
        raise NotImplementedError

    def _put(self, name: str, tensors: dict[str, Tensor], config: RecurrentConfig) -> None:
        for where, tensor in tensors.items():
            if not config.init_weights:
                tensor = torch.randn_like(tensor) * 0.1
            getattr(self, where)[name] = nn.Parameter(tensor)
        self.set_adapter(self.active_adapters)

    def _zeros(self, *shape: int) -> Tensor:
        like = self.base_layer.A_log  # where the mixer's other weights are quantised, this one is not
        assert isinstance(like, Tensor)
        return torch.zeros(shape, dtype=sum_dtype(like.dtype), device=like.device)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError(f"{type(self).__name__} cannot be merged into the model: {self.unmergeable}")

    def unmerge(self) -> None:
        raise ValueError(f"{type(self).__name__} is never merged, so there is nothing to take out again")


def _no_fused_kernel(*args: Any, **kwargs: Any) -> None:
    """Instead of a kernel for a whole mixer: None, by which transformers' forward goes on with its separate parts."""
