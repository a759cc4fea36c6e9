"""What each method adds to a recurrent mixer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssm_tune.peft.config import AdditionalScanConfig, InitialStateConfig, StateOffsetConfig
from ssm_tune.peft.mixers import MAMBA1, Mixer
from ssm_tune.peft.recurrent_layer import RecurrentLayer
from ssm_tune.peft.terms import added, read_initial_state, read_low_rank, read_state, total


class StateOffsetLayer(RecurrentLayer):
    """A mixer with state offsets: h' (full or of low rank) and y'."""

    adapter_layer_names = ("state_offset_h", "state_offset_U", "state_offset_V", "state_offset_y")
    other_param_names = ("scale",)
    state_offset_h: nn.ParameterDict
    state_offset_U: nn.ParameterDict
    state_offset_V: nn.ParameterDict
    state_offset_y: nn.ParameterDict
    unmergeable = "the offset is read beside the state at every position, where a mixer has no bias"

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.scale: dict[str, float] = {}

    @classmethod
    def check_fit(cls, mixers: list[Mixer], config: StateOffsetConfig) -> None:
        most = min(min(mixer.channels, mixer.states) for mixer in mixers)
        if config.rank is not None and config.rank > most:
            raise ValueError(
                f"rank={config.rank} is larger than an h' of {mixers[0].channels} channels and {mixers[0].states} "
                f"states: at most {most}"
            )

    def add_adapter(self, name: str, config: StateOffsetConfig) -> None:
        D, N, rank = self.mixer.channels, self.mixer.states, config.rank
        self.scale[name] = config.scale
        if config.offset == "y":
            tensors = {"state_offset_y": self._zeros(D)}
        elif rank is None:
            tensors = {"state_offset_h": self._zeros(D, N)}
        else:
            U = nn.init.kaiming_uniform_(self._zeros(D, rank), a=math.sqrt(5))
            tensors = {"state_offset_U": U, "state_offset_V": self._zeros(rank, N)}
        self._put(name, tensors, config)

    def offset(self, C: Tensor) -> Tensor | None:
        terms = []
        for name in self.active:
            if name in self.state_offset_y:
                term = self.state_offset_y[name].to(C.dtype).view(1, 1, -1)
            elif name in self.state_offset_h:
                term = read_state(C, self.state_offset_h[name])
            else:
                term = read_low_rank(C, self.state_offset_U[name], self.state_offset_V[name])
            terms.append(term if self.scale[name] == 1 else term * self.scale[name])
        return total(terms)

    def value(self, name: str) -> Tensor:
        """An adapter's h' (D, N) or y' (D,), with its factor."""
        if name in self.state_offset_y:
            return self.state_offset_y[name] * self.scale[name]
        if name in self.state_offset_h:
            return self.state_offset_h[name] * self.scale[name]
        return self.state_offset_U[name] @ self.state_offset_V[name] * self.scale[name]

    def fast_arguments(self) -> dict[str, Any]:
        beside_y = [name for name in self.active if name in self.state_offset_y]
        beside_h = [name for name in self.active if name not in self.state_offset_y]
        return {
            "state_offset": total([self.value(name) for name in beside_h]),
            "output_offset": total([self.value(name) for name in beside_y]),
        }

    def set_weighted(self, name: str, adapters: list[str], weights: list[float]) -> None:
        """Fill an adapter (a full h' or a y', without factor) with the weighted sum of others on this layer."""
        with torch.no_grad():
            parts = [weight * self.value(one) for one, weight in zip(adapters, weights, strict=True) if self._has(one)]
            target = self.state_offset_y if name in self.state_offset_y else self.state_offset_h
            target[name].copy_(sum(parts[1:], parts[0]) if parts else torch.zeros_like(target[name]))

    def _has(self, name: str) -> bool:
        return name in self._get_available_adapters()


class InitialStateLayer(RecurrentLayer):
    """A mixer that starts from learned states."""

    adapter_layer_names = ("initial_state_h",)
    initial_state_h: nn.ParameterDict
    unmergeable = "a plain model starts from the state zero"

    def add_adapter(self, name: str, config: InitialStateConfig) -> None:
        self._put(name, {"initial_state_h": self._zeros(self.mixer.channels, self.mixer.states)}, config)

    def beside_scan(
        self, C: Tensor, sizes: Callable[[], Tensor], A: Tensor, state: Tensor | None, continued: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        if continued:  # the state in the cache has the start in it
            return None, state
        term, last = read_initial_state(C, sizes(), A, self._start())
        return term, None if state is None else added(state, last)

    def _start(self) -> Tensor:
        start = total([self.initial_state_h[name] for name in self.active])
        assert start is not None
        return start

    def fast_arguments(self) -> dict[str, Any]:
        return {"initial_state": self._start()}

    def set_weighted(self, name: str, adapters: list[str], weights: list[float]) -> None:
        """Fill an adapter with the weighted sum of others on this layer."""
        with torch.no_grad():
            target = self.initial_state_h[name]
            pairs = zip(adapters, weights, strict=True)
            parts = [weight * self.initial_state_h[one] for one, weight in pairs if one in self.initial_state_h]
            target.copy_(sum(parts[1:], parts[0]) if parts else torch.zeros_like(target))

    def _refuse_packed(self, kwargs: dict[str, Any]) -> None:
        for name in ("seq_idx", "cu_seq_lens_q", "cu_seqlens"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    "an initial state cannot be used with several sequences packed in one row "
                    f"({name} was given): turn packing and padding-free batches off"
                )


class AdditionalScanLayer(RecurrentLayer):
    """A Mamba-1 mixer with further states, which a second scan runs beside the first."""

    adapter_layer_names = ("additional_scan_B", "additional_scan_C", "additional_scan_A_log")
    unmergeable = (
        "the further states become rows of x_proj and columns of A_log, which takes a plain Mamba, with x_proj not "
        "quantised, whose layers are all tuned"
    )
    has_fast_path = False

    @classmethod
    def check_fit(cls, mixers: list[Mixer], config: AdditionalScanConfig) -> None:
        if mixers[0].family is not MAMBA1:
            raise ValueError(
                f"additional_scan does not fit {mixers[0].name}: a Mamba-2 mixer makes B and C before its convolution; "
                "it fits Mamba-1 mixers"
            )

    def add_adapter(self, name: str, config: AdditionalScanConfig) -> None:
        D, N, E = self.mixer.channels, self.mixer.states, config.states
        start = [16.0] * E if config.a_init == "official" else [math.log(N + 1 + extra) for extra in range(E)]
        tensors = {
            "additional_scan_B": nn.init.kaiming_uniform_(self._zeros(E, D), a=math.sqrt(5)),
            "additional_scan_C": self._zeros(E, D),
            "additional_scan_A_log": self._zeros(D, E) + torch.tensor(start, device=self._zeros(1).device),
        }
        self._put(name, tensors, config)

    @property
    def mergeable(self) -> bool:
        """Whether the mixer can hold further states itself; Falcon-Mamba and Jamba normalise B and C over their own."""
        mixer: Any = self.base_layer
        return self.mixer.name == "MambaMixer" and mixer.x_proj.weight.is_floating_point()

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Give the mixer the active adapters' states: rows of x_proj and columns of A_log. For ``merge_and_unload``."""
        mixer: Any = self.base_layer
        N, old = self.mixer.states, mixer.x_proj.weight
        low, B, C = old.split([old.shape[0] - 2 * N, N, N])
        B, C = (torch.cat([rows, self._rows(f"additional_scan_{n}").to(old)]) for n, rows in (("B", B), ("C", C)))
        weight = torch.cat([low, B, C])
        mixer.x_proj = nn.Linear(old.shape[1], len(weight), bias=False, device=old.device, dtype=old.dtype)
        mixer.x_proj.weight = nn.Parameter(weight, requires_grad=False)
        further = self._rows("additional_scan_A_log").to(mixer.A_log)
        mixer.A_log = nn.Parameter(torch.cat([mixer.A_log, further], dim=1), requires_grad=False)
        mixer.ssm_state_size = mixer.A_log.shape[1]

    def _rows(self, name: str) -> Tensor:
        rows: nn.ParameterDict = getattr(self, name)
        return torch.cat([rows[one] for one in self.active], dim=1 if name.endswith("A_log") else 0)

    def _further(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A (D, E), and B and C (..., E) for x (..., D)."""
        B, C = (x @ self._rows(f"additional_scan_{name}").to(x.dtype).t() for name in ("B", "C"))
        return -torch.exp(self._rows("additional_scan_A_log")), B, C

    def beside_mamba1(
        self, y: Tensor, state: Tensor | None, inputs: tuple[Any, ...], softplus: bool, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        x, dt, _, _, _, _, z, bias = inputs
        A, B, C = self._further(x.transpose(1, 2))
        scan = self._original[MAMBA1.scan]
        out = scan(
            x,
            dt,
            A,
            B.transpose(1, 2),
            C.transpose(1, 2),
            None,
            z,
            bias,
            delta_softplus=softplus,
            return_last_state=keep,
        )
        out, last = out if keep else (out, None)
        return added(y, out), None if last is None or state is None else torch.cat([state, last.to(state.dtype)], dim=2)

    def split_state(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        N, E = self.mixer.states, self._rows("additional_scan_B").shape[0]
        if state.shape[2] != N + E:
            raise ValueError(
                f"the cache holds {state.shape[2]} states a channel, this adapter has {N} + {E}: it was filled with "
                "other adapters active; start with a new cache"
            )
        return state[:, :, :N], state[:, :, N:]

    def beside_step(self, y: Tensor, further: Tensor | None, x: Tensor, dt: Tensor, kwargs: dict[str, Any]) -> Tensor:
        assert further is not None
        A, B, C = self._further(x)
        return added(y, self._original[MAMBA1.step](further, x, dt, A, B, C, None, **kwargs))
