"""Adapters from files onto a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ssm_tune.methods.adapter import Adapter, attach
from ssm_tune.methods.adapter_files import read_adapter_files
from ssm_tune.methods.base import load_method
from ssm_tune.models.config import param_dtype
from ssm_tune.models.mamba import Mamba
from ssm_tune.utils.errors import UserError, first_line

log = logging.getLogger(__name__)


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors that ``Adapter.save`` wrote. Raises UserError where a file is damaged.

    An adapter without a digest, from before there were digests, is read with a warning.
    """
    files = read_adapter_files(folder)
    try:
        tensors = safetensors.torch.load(files.weights)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the adapter in {folder} cannot be read: {first_line(error)}") from error
    if not files.checked:
        log.warning("%s holds no digest, as older adapters do: whether its files are damaged is unchecked", folder)
    return files.description, tensors


def load_adapter(model: Mamba, folder: Path) -> Adapter:
    """Attach a saved adapter to a model of the sizes that it was trained on.

    Raises UserError for files that are missing or damaged, or a model that they do not fit.
    """
    description, tensors = read_adapter(folder)
    return put_adapter(model, description["method"], tensors, str(folder))


def put_adapter(model: Mamba, section: dict[str, Any], tensors: dict[str, Tensor], folder: str) -> Adapter:
    """Attach the method of a ``method`` section with given tensors; ``folder`` is where they come from, for messages.

    Raises UserError for tensors or a model that they do not fit.
    """
    method = load_method(section)
    method.check_family(type(model.config))
    size, fixed = sum(tensor.numel() for tensor in tensors.values()), method.num_fixed_values(model.config)
    expected = method.num_trainable_params(model.config)
    if size != expected + fixed:  # before anything of that size is made
        beside = f", and keeps {fixed:,} beside them" if fixed else ""
        raise UserError(
            f"{folder} does not fit the model: it holds {size:,} numbers, and {method.name} with its options trains "
            f"{expected:,} of this model{beside}"
        )
    narrow = torch.bfloat16
    whole = method.num_fixed_values(model.config) > 0  # may be whole numbers; loading looks at each
    dtypes = {
        tensor.dtype
        for name, tensor in tensors.items()
        if param_dtype(name, narrow) == narrow and (tensor.is_floating_point() or not whole)
    }
    if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise UserError(
            f"{folder}: its tensors must have one floating dtype, got {', '.join(sorted(map(str, dtypes)))}"
        )
    adapter = attach(model, method, dtype=next(iter(dtypes), None))
    adapter.load_tensors(tensors, folder)
    return adapter
