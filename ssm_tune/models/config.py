"""The sizes of a model, one class for each family, what follows from them in closed form, and dtypes of parameters.

    d_model  width of the residual stream     V  vocabulary (padded)     K  width of the convolution
    D = expand * d_model  channels of a block     N  states a channel

The numbers of parameters are those of one block. Methods read them, and know no family.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch


class LinearMap(NamedTuple):
    """Rows ``start`` to ``end`` - 1 of the weight of ``projection``, which has ``width`` columns."""

    projection: str
    width: int
    start: int
    end: int


@dataclass(frozen=True)
class ModelConfig(ABC):
    """What all families have. ``vocab_size`` counts the embedding's rows, padding included."""

    d_model: int
    n_layer: int
    vocab_size: int
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    residual_in_fp32: bool = True

    family: ClassVar[str]
    """As in settings: "mamba", "mamba2"."""
    title: ClassVar[str]
    """As in messages: "a Mamba-2"."""
    marker: ClassVar[str]
    """How the name of a tensor ends that only this family has."""
    map_names: ClassVar[tuple[str, ...]]
    """The names in ``linear_maps``."""
    scan_params: ClassVar[tuple[str, ...]]
    """Of ``mixer_params`` those that only the scan has."""
    dt_bias: ClassVar[str]
    """Which of ``mixer_params`` is the bias of the step sizes."""
    runs_on_mamba_ssm: ClassVar[bool]
    """Whether backend=mamba_ssm has its scan."""
    has_state_decays: ClassVar[bool]
    """Whether each state has an A of its own."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layer", "vocab_size", "d_state", "d_conv", "expand"):
            self.require_positive(name)

    def require_positive(self, name: str) -> None:
        """Raise ValueError unless the size is at least 1."""
        if getattr(self, name) < 1:
            raise ValueError(f"{type(self).__name__}: {name} must be at least 1, got {getattr(self, name)}")

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model

    @property
    @abstractmethod
    def linear_maps(self) -> dict[str, LinearMap]:
        """The maps that a low-rank update can be added to, by name. A name with a dot is a part of a projection."""

    @property
    @abstractmethod
    def mixer_params(self) -> dict[str, int]:
        """Elements of each parameter of a mixer, by its name there."""

    @abstractmethod
    def num_extra_state_params(self, states: int) -> int:
        """Parameters that ``states`` further states a channel add to a block."""

    @property
    def block_params(self) -> dict[str, int]:
        """Elements of each parameter of a block, by its name there."""
        return {"norm.weight": self.d_model} | {f"mixer.{name}": count for name, count in self.mixer_params.items()}

    @property
    def outer_params(self) -> dict[str, int]:
        """Elements of each parameter outside of the blocks, by its name in the model."""
        table = self.vocab_size * self.d_model
        head = {} if self.tie_embeddings else {"lm_head.weight": table}
        return {"backbone.embedding.weight": table, "backbone.norm_f.weight": self.d_model} | head

    @property
    def num_params(self) -> int:
        """All parameters of the model."""
        return self.n_layer * sum(self.block_params.values()) + sum(self.outer_params.values())


@dataclass(frozen=True)
class MambaConfig(ModelConfig):
    """Sizes of a Mamba-1. dt_rank: width of the step size's bottleneck; 0 stands for ceil(d_model / 16), the published
    rule."""

    dt_rank: int = 0

    family, title, marker, has_state_decays = "mamba", "a Mamba-1", "mixer.x_proj.weight", True
    runs_on_mamba_ssm = True
    scan_params, dt_bias = ("x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D"), "dt_proj.bias"
    map_names = (
        *("in_proj", "in_proj.x", "in_proj.z"),
        *("x_proj", "x_proj.dt", "x_proj.B", "x_proj.C"),
        *("dt_proj", "out_proj"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dt_rank == 0:
            object.__setattr__(self, "dt_rank", math.ceil(self.d_model / 16))
        self.require_positive("dt_rank")

    @property
    def linear_maps(self) -> dict[str, LinearMap]:
        """in_proj holds two maps in one matrix and x_proj three; the official code splits them, so each part has a
        name of its own."""
        D, N, rank = self.d_inner, self.d_state, self.dt_rank
        return {
            "in_proj": LinearMap("in_proj", self.d_model, 0, 2 * D),
            "in_proj.x": LinearMap("in_proj", self.d_model, 0, D),
            "in_proj.z": LinearMap("in_proj", self.d_model, D, 2 * D),
            "x_proj": LinearMap("x_proj", D, 0, rank + 2 * N),
            "x_proj.dt": LinearMap("x_proj", D, 0, rank),
            "x_proj.B": LinearMap("x_proj", D, rank, rank + N),
            "x_proj.C": LinearMap("x_proj", D, rank + N, rank + 2 * N),
            "dt_proj": LinearMap("dt_proj", rank, 0, D),
            "out_proj": LinearMap("out_proj", D, 0, self.d_model),
        }

    @property
    def mixer_params(self) -> dict[str, int]:
        D, N, rank = self.d_inner, self.d_state, self.dt_rank
        return {
            "in_proj.weight": self.d_model * 2 * D,
            "conv1d.weight": D * self.d_conv,
            "conv1d.bias": D,
            "x_proj.weight": D * (rank + 2 * N),
            "dt_proj.weight": rank * D,
            "dt_proj.bias": D,
            "A_log": D * N,
            "D": D,
            "out_proj.weight": D * self.d_model,
        }

    def num_extra_state_params(self, states: int) -> int:
        return 3 * states * self.d_inner  # rows of x_proj for B and for C, columns of A_log


@dataclass(frozen=True)
class Mamba2Config(ModelConfig):
    """Sizes of a Mamba-2: H = D / headdim heads, which share B and C in ``ngroups`` groups.

    dt_limit: the least and the largest step size.
    """

    d_state: int = 128
    headdim: int = 64
    ngroups: int = 1
    dt_limit: tuple[float, float] = (0.0, math.inf)

    family, title, marker, has_state_decays = "mamba2", "a Mamba-2", "mixer.dt_bias", False
    runs_on_mamba_ssm = False
    scan_params, dt_bias = ("dt_bias", "A_log", "D"), "dt_bias"
    map_names = ("in_proj", "in_proj.z", "in_proj.x", "in_proj.B", "in_proj.C", "in_proj.dt", "out_proj")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("headdim")
        self.require_positive("ngroups")
        if self.d_inner % self.headdim:
            raise ValueError(f"Mamba2Config: headdim {self.headdim} must divide the {self.d_inner} channels of a block")
        if self.nheads % self.ngroups:
            raise ValueError(f"Mamba2Config: ngroups {self.ngroups} must divide the {self.nheads} heads of a block")
        if not 0 <= self.dt_limit[0] <= self.dt_limit[1]:
            raise ValueError(f"Mamba2Config: dt_limit must be a range of step sizes, got {self.dt_limit}")

    @property
    def nheads(self) -> int:
        return self.d_inner // self.headdim

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_inner + 2 * self.ngroups * self.d_state

    @property
    def linear_maps(self) -> dict[str, LinearMap]:
        """in_proj holds five maps in one matrix, in the order z, x, B, C, dt."""
        D, GN, width = self.d_inner, self.ngroups * self.d_state, self.d_model
        total = D + self.conv_channels + self.nheads
        return {
            "in_proj": LinearMap("in_proj", width, 0, total),
            "in_proj.z": LinearMap("in_proj", width, 0, D),
            "in_proj.x": LinearMap("in_proj", width, D, 2 * D),
            "in_proj.B": LinearMap("in_proj", width, 2 * D, 2 * D + GN),
            "in_proj.C": LinearMap("in_proj", width, 2 * D + GN, 2 * D + 2 * GN),
            "in_proj.dt": LinearMap("in_proj", width, 2 * D + 2 * GN, total),
            "out_proj": LinearMap("out_proj", D, 0, self.d_model),
        }

    @property
    def mixer_params(self) -> dict[str, int]:
        D, channels, heads = self.d_inner, self.conv_channels, self.nheads
        return {
            "in_proj.weight": self.d_model * (D + channels + heads),
            "conv1d.weight": channels * self.d_conv,
            "conv1d.bias": channels,
            "dt_bias": heads,
            "A_log": heads,
            "D": heads,
            "norm.weight": D,
            "out_proj.weight": D * self.d_model,
        }

    def num_extra_state_params(self, states: int) -> int:
        """Rows of in_proj for B and for C of each group, with their convolution channels (taps and bias)."""
        return 2 * self.ngroups * states * (self.d_model + self.d_conv + 1)


FAMILIES: dict[str, type[ModelConfig]] = {config.family: config for config in (MambaConfig, Mamba2Config)}

_FLOAT32 = ("A_log", ".D", "dt_bias")


def param_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the parameter ``name`` of a model in ``dtype``: for A_log, D and dt_bias float32 at least.

    They act on every step of the recurrence, and the published checkpoints keep them so.
    """
    return torch.promote_types(dtype, torch.float32) if name.endswith(_FLOAT32) else dtype
