"""Low-rank updates as an adapter of Hugging Face peft's own LoRA, for transformers' model of the same checkpoint.

peft knows whole projections only. The parts of one become a single update, whose rank is the sum of theirs and whose B
is zero on other rows; the fixed start of PiSSA becomes further rank. So an adapter may grow, and computes the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ssm_tune.methods.adapter import Adapter
from ssm_tune.methods.low_rank import ProjectionUpdate, WeightDecomposedUpdate
from ssm_tune.methods.peft_format import CONFIG, PREFIX, WEIGHTS
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import atomic_write, encode_json

_REFUSED = {
    "dt_proj": "transformers' Mamba reads its weight past the layer, so that peft's update would do nothing",
    "out_proj": "peft refuses that projection in Mamba models",
}


@torch.no_grad()
def write_peft_lora(adapter: Adapter, model: dict[str, Any], folder: Path) -> None:
    """Write peft's two files. model: the ``model`` section of the adapter's description.

    Raises UserError where peft cannot hold an update of a projection, or a file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, tuple[int, float]] = {}
    decomposed = False
    for index, mixer in enumerate(adapter.model.mixers):
        for projection, update in mixer.injection.updates.items():
            if projection in _REFUSED:
                raise UserError(
                    f"{adapter.method.name} on {projection} has no equal in peft: {_REFUSED[projection]}; --merge "
                    "writes plain weights"
                )
            assert isinstance(update, ProjectionUpdate)
            weight = getattr(mixer, projection).weight
            whole = _whole(update, weight)
            decomposed = "lora_magnitude_vector" in whole
            ranks[projection] = whole["lora_A"].shape[0], update.updates[0].scale
            place = f"{PREFIX}backbone.layers.{index}.mixer.{projection}"
            tensors |= {f"{place}.{name}.weight": value.contiguous() for name, value in whole.items()}
    rank, scale = next(iter(ranks.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.get("path"),
        "revision": model.get("revision"),
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": {name: own for name, (own, _) in ranks.items() if own != rank},
        "alpha_pattern": {name: factor * own for name, (own, factor) in ranks.items() if own != rank},
        "lora_dropout": 0.0,
        "use_dora": decomposed,
        "bias": "none",
    }
    atomic_write(folder / WEIGHTS, [safetensors.torch.save(tensors, metadata={"format": "pt"})])
    atomic_write(folder / CONFIG, [encode_json(config, indent=2), b"\n"])


def _whole(update: ProjectionUpdate, weight: Tensor) -> dict[str, Tensor]:
    """The parts of an update of ``weight`` (out, in) as one, by peft's names."""
    factors = [part.factors() for part in update.updates]
    A = torch.cat([down for down, _ in factors])
    B, column = A.new_zeros(weight.shape[0], A.shape[0]), 0
    for part, (_, up) in zip(update.updates, factors, strict=True):
        B[part.start : part.end, column : column + up.shape[1]] = up
        column += up.shape[1]
    found = {"lora_A": A, "lora_B": B}
    lengths = torch.linalg.vector_norm(weight.float(), dim=1).to(A)
    for part in update.updates:
        if isinstance(part, WeightDecomposedUpdate):
            lengths[part.start : part.end] = part.magnitude
            found["lora_magnitude_vector"] = lengths
    return found
