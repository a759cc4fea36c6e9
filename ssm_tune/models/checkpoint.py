"""Reads a checkpoint's tensors from a folder, in the two published layouts.

transformers calls the embedding ``backbone.embeddings`` (older files, and the original layout: ``backbone.embedding``).
Weights are read as tensors, never as code.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssm_tune.models.checkpoint_config import Fields, read_json
from ssm_tune.utils.errors import UserError, first_line, shown_name

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weight files, the preferred one first: where several are present only the first is read."""


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, Path]]:
    """The checkpoint's tensors under the names of ``Mamba``, and the file of each; CPU, dtypes as stored.

    Raises UserError: no weight file, a shard missing, a file truncated, malformed or holding pickled code,
    something that is not a floating-point tensor, or one tensor twice.
    """
    tensors: dict[str, Tensor] = {}
    origin: dict[str, Path] = {}
    for file in _weight_files(folder):
        for published, value in _read_weights(file).items():
            name = _our_name(published)
            shown = shown_name(published)
            if name in tensors:
                raise UserError(f"{file}: tensor {shown} stands twice (also in {origin[name]})")
            if not isinstance(value, Tensor):
                raise UserError(f"{file}: {shown} is a {type(value).__name__}; only tensors are expected")
            if not value.is_floating_point() or value.layout != torch.strided or value.device.type != "cpu":
                raise UserError(f"{file}: tensor {shown} is {value.dtype}, {value.layout}, not plain floats")
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # its strides repeat values
                raise UserError(f"{file}: tensor {shown} of shape {tuple(value.shape)} has fewer values than that")
            tensors[name], origin[name] = value.detach(), file
    return tensors, origin


def _our_name(published: str) -> str:
    return published.replace("backbone.embeddings.", "backbone.embedding.", 1)


def _weight_files(folder: Path) -> list[Path]:
    present = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not present:
        raise UserError(f"{folder}: no weights; one of {', '.join(WEIGHTS)} is needed")
    file = present[0]
    if not file.name.endswith(".index.json"):
        return [file]
    index = Fields(file, read_json(file)).values
    shards = Fields(file, index.get("weight_map"), within="weight_map.").values.values()
    files = []
    for shard in dict.fromkeys(map(str, shards)):
        if Path(shard).name != shard or not shard.endswith((".safetensors", ".bin")):
            raise UserError(f"{file}: {shard!r} is not the name of a weight file beside it")
        if not (folder / shard).is_file():
            raise UserError(f"{folder / shard}: missing, but {file.name} names it; copy or download it again")
        files.append(folder / shard)
    return files


def _read_weights(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        if zipfile.is_zipfile(file):
            _refuse_compression(file)
        # The restricted unpickler builds tensors and plain containers and refuses everything else.
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file}: holds pickled code, or is no weight file at all; refused, nothing was run."
            " Take the checkpoint's model.safetensors, or a state dict of plain tensors"
        ) from error
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except Exception as error:  # both readers run off the end of a broken file in many ways
        raise UserError(f"{file}: truncated or malformed ({first_line(error)}); copy or download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}, not a state dict (name -> tensor)")
    return {str(name): value for name, value in content.items()}


def _refuse_compression(file: Path) -> None:
    """torch.save compresses nothing; a small file that unpacks to gigabytes must not fill the memory."""
    with zipfile.ZipFile(file) as archive:
        if any(entry.file_size > entry.compress_size for entry in archive.infolist()):
            raise UserError(f"{file}: holds compressed data, which torch.save does not write; refused")
