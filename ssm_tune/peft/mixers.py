"""The one place that touches transformers' internals: its recurrent mixers and the functions that they scan with.

Since transformers 5.15 the forward of every Mamba mixer calls its scan through module-level functions, with one
signature a family. A mixer is tuned by running transformers' own forward with these functions replaced by ours, which
call the originals (fused kernels included) and add what an adapter does. No forward is copied, and no module of
transformers is changed: the replaced names live in a private copy of the forward's namespace.

What is relied on is checked when an adapter is put on a mixer, and a transformers that differs is refused with a line:
the mixer's class and attributes, the names that its forward calls, and the functions' parameters.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from types import CellType, FunctionType
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Family:
    """What the mixers of one family share.

    scan: the function over a whole sequence; step: over one position with a cache; fused: one that does the whole
    mixer in training, where its package is installed, and is passed over by tuned mixers, since it takes no offset.
    sizes: the attributes that hold channels, states, heads and groups.
    """

    name: str
    scan: str
    step: str
    fused: str
    sizes: tuple[str, ...]
    parameters: dict[str, tuple[str, ...]]


_STEP = ("state", "hidden_states", "dt", "A", "B", "C", "D", "dt_bias", "dt_softplus", "z")
MAMBA1 = Family(
    name="Mamba-1",
    scan="mamba_selective_scan",
    step="mamba_selective_state_update",
    fused="mamba_inner_fn",
    sizes=("intermediate_size", "ssm_state_size"),
    parameters={
        "mamba_selective_scan": (
            "hidden_states",
            "dt",
            "A",
            "B",
            "C",
            "D",
            "z",
            "delta_bias",
            "delta_softplus",
            "return_last_state",
        ),
        "mamba_selective_state_update": _STEP,
    },
)
MAMBA2 = Family(
    name="Mamba-2",
    scan="mamba2_chunk_scan",
    step="mamba2_selective_state_update",
    fused="mamba2_split_conv1d_scan_combined",
    sizes=("intermediate_size", "ssm_state_size", "num_heads", "n_groups"),
    parameters={
        "mamba2_chunk_scan": (
            "hidden_states",
            "dt",
            "A",
            "B",
            "C",
            "chunk_size",
            "D",
            "dt_bias",
            "initial_states",
            "dt_softplus",
            "dt_limit",
            "return_final_states",
        ),
        "mamba2_selective_state_update": _STEP,
    },
)

MIXERS = {
    "mamba.modeling_mamba.MambaMixer": MAMBA1,
    "falcon_mamba.modeling_falcon_mamba.FalconMambaMixer": MAMBA1,
    "jamba.modeling_jamba.JambaMambaMixer": MAMBA1,
    "mamba2.modeling_mamba2.Mamba2Mixer": MAMBA2,
    "bamba.modeling_bamba.BambaMixer": MAMBA2,
    "granitemoehybrid.modeling_granitemoehybrid.GraniteMoeHybridMambaLayer": MAMBA2,
    "falcon_h1.modeling_falcon_h1.FalconH1Mixer": MAMBA2,
    "nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer": MAMBA2,
    "zamba2.modeling_zamba2.Zamba2MambaMixer": MAMBA2,
}
_READS_DT_WEIGHT = "mamba.modeling_mamba.MambaMixer"  # the others call dt_proj as a module where it is quantised


@dataclass(frozen=True)
class Mixer:
    """A recurrent mixer's sizes. channels: D; states: N a channel; heads share A and dt, groups B and C."""

    family: Family
    name: str
    layer: int
    channels: int
    states: int
    heads: int
    groups: int


def family_of(module: nn.Module) -> Family | None:
    """The family of a recurrent mixer of transformers, or of a subclass of one; None for any other module."""
    for kind in type(module).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name.startswith("transformers.models.") and name.removeprefix("transformers.models.") in MIXERS:
            return MIXERS[name.removeprefix("transformers.models.")]
    return None


def describe(module: nn.Module) -> Mixer:
    """A mixer's family and sizes.

    Raises ValueError for a module that is no recurrent mixer, one whose weights are quantised where transformers reads
    them directly, or one without the attributes of the tested versions.
    """
    family, kind = family_of(module), type(module).__name__
    if family is None:
        raise ValueError(
            f"{kind} is no recurrent layer that ssm_tune.peft knows; it knows "
            + ", ".join(name.rpartition(".")[2] for name in MIXERS)
        )
    try:
        sizes = [int(getattr(module, name)) for name in family.sizes]
        layer = int(module.layer_idx)  # type: ignore[arg-type]
    except AttributeError as error:
        raise ValueError(f"{kind} differs from the tested ones ({error}): {_advice()}") from error
    channels, states, *shared = sizes
    _refuse_quantised(module)
    heads, groups = shared or (channels, 1)
    return Mixer(family, kind, layer, channels, states, heads, groups)


def _refuse_quantised(module: nn.Module) -> None:
    read = ["conv1d"]
    if any(f"{kind.__module__}.{kind.__qualname__}".endswith(_READS_DT_WEIGHT) for kind in type(module).__mro__):
        read.append("dt_proj")
    for name in read:
        weight = getattr(getattr(module, name), "weight", None)
        if weight is None or not weight.is_floating_point():
            raise ValueError(
                f"{type(module).__name__}.{name} is quantised, and transformers computes with its weight directly: "
                f"leave it out of the quantisation (llm_int8_skip_modules=[..., '{name}'] or its like)"
            )


def originals(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """The functions by their names that a mixer's forward scans with: scan, step, and fused where it has one.

    Raises ValueError where the forward calls others than the tested versions, or these take other parameters.
    """
    family = family_of(module)
    assert family is not None
    forward = _innermost(type(module).forward)
    called = {name for name in forward.__code__.co_names if re.search("scan|state_update|inner_fn|combined", name)}
    called &= forward.__globals__.keys()  # an attribute such as use_associative_scan is no function
    required = {family.scan, family.step}
    if not required <= called <= required | {family.fused}:
        raise ValueError(
            f"{type(module).__name__}.forward calls {', '.join(sorted(called)) or 'no scan function'}, expected "
            f"{family.scan} and {family.step}: {_advice()}"
        )
    found = {name: forward.__globals__[name] for name in called}
    for name, expected in family.parameters.items():
        taken = tuple(inspect.signature(found[name]).parameters)[: len(expected)]
        if taken != expected:
            raise ValueError(f"{name} takes {', '.join(taken)}, expected {', '.join(expected)}: {_advice()}")
    return found


def forward_with(module: nn.Module, replaced: dict[str, Callable[..., Any]]) -> tuple[Callable[..., Any], int]:
    """The forward of a mixer's class with the functions of ``replaced`` called instead of those of their names.

    Returns a function that takes the mixer and its arguments, and the position of attention_mask among those.
    """
    outer = type(module).forward
    names = list(inspect.signature(_innermost(outer)).parameters)
    if "attention_mask" not in names:
        raise ValueError(f"{type(module).__name__}.forward takes no attention_mask: {_advice()}")
    return _rebuilt(outer, replaced), names.index("attention_mask") - 1


def _decorated(function: Any) -> FunctionType | None:
    """The forward that a decorator wraps; None for a function without one. Not every version names it."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    wrapped = [one for one in cells if isinstance(one, FunctionType) and one.__name__ == "forward"]
    return wrapped[0] if len(wrapped) == 1 else None


def _innermost(function: Any) -> FunctionType:
    while (inner := _decorated(function)) is not None:
        function = inner
    if not isinstance(function, FunctionType):
        raise ValueError(f"{function!r} is no plain function: {_advice()}")
    return function


def _rebuilt(function: Any, replaced: dict[str, Callable[..., Any]]) -> FunctionType:
    """A function with other globals; where it is wrapped by decorators, the same ones around that."""
    inner = _decorated(function)
    if inner is None:
        names = {**function.__globals__, **replaced}
        names.pop("__name__", None)  # by it torch.compile would look the names up in the module
        return _copy(_innermost(function), names, function.__closure__)
    other = _rebuilt(inner, replaced)
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    closure = tuple(CellType(other if content is inner else content) for content in cells)
    return _copy(function, function.__globals__, closure)


def _copy(function: FunctionType, names: dict[str, Any], closure: tuple[CellType, ...] | None) -> FunctionType:
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__, copy.__module__ = function.__kwdefaults__, function.__module__
    return copy


def _advice() -> str:
    return (
        f"ssm_tune.peft does not know transformers {version('transformers')}; install a version of docs/peft.md, "
        "or a newer ssm-tune"
    )
