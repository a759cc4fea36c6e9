"""Training of a model's own parameters, which methods name as the checkpoints do.

A name stands for every parameter whose name it is, or is a part of between dots: ``conv1d`` for conv1d.weight and
conv1d.bias, ``norm`` for the norm of each block and, in a Mamba-2, the norm before out_proj. ``dt_bias`` is the bias of
the step sizes in either family.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssm_tune.models.config import ModelConfig
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError

DT_BIAS = "dt_bias"


def check_names(family: type[ModelConfig], names: Sequence[str], option: str) -> None:
    """Raise UserError for a name that stands for nothing in any model of the family. option: whose names they are."""
    config = family(d_model=64, n_layer=1, vocab_size=1, tie_embeddings=False)
    for name in names:
        if not _block_params(config, [name]) and not _outer_params(config, [name]):
            firsts = {key.removeprefix("mixer.").partition(".")[0] for key in config.block_params}
            there = ", ".join(sorted(firsts | {DT_BIAS, "norm_f", "embedding", "lm_head"}))
            raise UserError(f"{option}: {name!r} is no parameter of {family.title}; there are {there}")


def train_parameters(model: Mamba, names: Sequence[str]) -> None:
    """Mark the parameters that the names stand for as trained. Raises UserError for a head that is the embedding."""
    if "lm_head" in names and model.config.tie_embeddings:
        raise UserError("this model's lm_head is its embedding: name embedding to train both")
    for block in model.backbone.blocks:
        for name in _block_params(model.config, names):
            block.get_parameter(name).requires_grad_(True)
    for name in _outer_params(model.config, names):
        model.get_parameter(name).requires_grad_(True)


def count_parameters(config: ModelConfig, names: Sequence[str]) -> int:
    """Elements of the parameters that the names stand for, in the whole model."""
    block, outer = _block_params(config, names), _outer_params(config, names)
    return config.n_layer * sum(block.values()) + sum(outer.values())


def _block_params(config: ModelConfig, names: Sequence[str]) -> dict[str, int]:
    wanted = [config.dt_bias if name == DT_BIAS else name for name in names]
    return _named(config.block_params, wanted)


def _outer_params(config: ModelConfig, names: Sequence[str]) -> dict[str, int]:
    return _named(config.outer_params, names)


def _named(params: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    return {full: count for full, count in params.items() if any(f".{name}." in f".{full}." for name in names)}
