"""The configurations: what ``get_peft_model`` takes, and what adapter_config.json holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.utils.peft_types import PeftType


@dataclass
class RecurrentConfig(PeftConfig):
    """What the methods on recurrent layers share.

    Args:
        target_modules: which recurrent mixers to tune, by the end of their module names (a list), or by a regular
            expression for the whole name (a string). None, the default, for all: attention and MLP layers are never
            touched.
        layers_to_transform: numbers of the model's layers to tune, counted as the model counts them, attention layers
            included. None for all recurrent ones.
        modules_to_save: names of modules to train and save whole, such as ``["lm_head"]``.
        init_weights: whether the fresh adapter leaves the model's output as it is. False starts every tensor at random,
            for tests.
        trained_on: filled in when an adapter is put on a model: kind, channels, states and layers of its mixers. An
            adapter is refused on a model of other sizes.
    """

    target_modules: list[str] | str | None = field(default=None)
    layers_to_transform: list[int] | int | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    init_weights: bool = field(default=True)
    trained_on: dict[str, Any] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        layers: Any = self.layers_to_transform
        if layers is not None:
            layers = [layers] if _whole(layers) else layers
            listed = isinstance(layers, list | tuple | range) and len(layers) > 0
            if not listed or not all(_whole(layer) for layer in layers):
                raise TypeError(f"layers_to_transform must be a layer's number or a list of such, got {layers!r}")
            self.layers_to_transform = [int(layer) for layer in layers]
        targets = self.target_modules
        if isinstance(targets, set | tuple):
            targets = sorted(targets)
        if targets is not None and not isinstance(targets, str | list):
            raise TypeError(f"target_modules must be a list of names or a regular expression, got {targets!r}")
        if targets is not None and len(targets) == 0:
            raise ValueError("target_modules is empty; leave it out to tune every recurrent layer")
        self.target_modules = targets
        if not isinstance(self.init_weights, bool):
            raise TypeError(f"init_weights must be True or False, got {self.init_weights!r}")
        self.check_options()

    def check_options(self) -> None:
        """Raise TypeError or ValueError for an option of a wrong kind or out of range."""


@dataclass
class StateOffsetConfig(RecurrentConfig):
    """State-offset Tuning: a learned constant is read beside the recurrent state, or beside what is read from it.

    ``offset="h"``: ``y_t = C_t (h_t + h')``, with h' (D, N) a layer; ``offset="y"``: ``y_t = C_t h_t + y'``, with y'
    (D,). D are the channels of a mixer (heads times their width in Mamba-2), N the states of a channel. The offset is
    never stored in the state, and it starts at zero. Kang et al. (2025), "State-offset Tuning: State-based
    Parameter-Efficient Fine-Tuning for State Space Models", arXiv 2503.03499, section 4.

    Trained numbers a layer: D N for h; r (D + N) for h with rank r; D for y.

    Args:
        offset: "h" or "y".
        rank: r, for h' = U V with U (D, r) at random and V (r, N) zero at first; from 1 to the smaller of D and N.
            None, the default, for a full h'.
        alpha: h' or y' is multiplied by alpha / r where there is a rank, and by alpha where there is none. None, the
            default, for no factor.
    """

    offset: str = field(default="h")
    rank: int | None = field(default=None)
    alpha: float | None = field(default=None)

    def __post_init__(self) -> None:
        self.peft_type = PeftType("STATE_OFFSET")
        super().__post_init__()

    def check_options(self) -> None:
        if self.offset not in ("h", "y"):
            raise ValueError(f"offset must be 'h' (beside the state) or 'y' (beside the output), got {self.offset!r}")
        if self.rank is not None:
            _require_count("rank", self.rank)
            if self.offset == "y":
                raise ValueError("rank is for offset='h'; the offset of offset='y' is one vector a layer")
        if self.alpha is not None:
            if not isinstance(self.alpha, int | float) or isinstance(self.alpha, bool):
                raise TypeError(f"alpha must be a number, got {self.alpha!r}")
            if not (math.isfinite(self.alpha) and self.alpha != 0):
                raise ValueError(f"alpha must be a finite number other than 0, got {self.alpha!r}")

    @property
    def scale(self) -> float:
        """What the offset is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / (self.rank or 1)


@dataclass
class InitialStateConfig(RecurrentConfig):
    """Initial state tuning: every scan starts from a learned state h_0 (D, N) a layer instead of zero.

    It starts at zero. Padding on the left does not move it: a sequence starts where its attention mask does. Galim et
    al. (2024), "Parameter-Efficient Fine-Tuning of State Space Models", arXiv 2410.09016.

    Trained numbers a layer: D N.
    """

    def __post_init__(self) -> None:
        self.peft_type = PeftType("INITIAL_STATE")
        super().__post_init__()


@dataclass
class AdditionalScanConfig(RecurrentConfig):
    """Additional-scan: further state dimensions beside the pretrained ones, for Mamba-1 mixers.

    A layer learns rows for B and C (E, D) on the convolution's output, and A_log (D, E). The C rows start at zero.
    Yoshimura et al. (2024), "MambaPEFT: Exploring Parameter-Efficient Fine-Tuning for Mamba", arXiv 2411.03855. Where a
    model normalises B and C (Falcon-Mamba, Jamba), the further rows are not normalised. A Mamba-2 mixer makes B and C
    before its convolution, so its further rows would need convolution channels, and room in the cache, of their own; it
    is refused.

    Trained numbers a layer: 3 E D.

    Args:
        states: E, at least 1.
        a_init: "s4d" continues the pretrained A_log: log(N + 1), log(N + 2), ...; "official" is 16.0, as in the
            official code of State-offset Tuning, where a further state forgets everything within one step.
    """

    states: int = field(default=8)
    a_init: str = field(default="s4d")

    def __post_init__(self) -> None:
        self.peft_type = PeftType("ADDITIONAL_SCAN")
        super().__post_init__()

    def check_options(self) -> None:
        _require_count("states", self.states)
        if self.a_init not in ("s4d", "official"):
            raise ValueError(f"a_init must be 's4d' or 'official', got {self.a_init!r}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require_count(name: str, value: object) -> None:
    if not _whole(value):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    assert isinstance(value, int)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
