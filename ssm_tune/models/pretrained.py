"""From a published checkpoint to a model, and back to a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssm_tune.models.checkpoint import WEIGHTS, read_tensors
from ssm_tune.models.checkpoint_config import original_layout, read_config, transformers_layout
from ssm_tune.models.config import FAMILIES, ModelConfig, param_dtype
from ssm_tune.models.mamba import Mamba
from ssm_tune.models.source import PretrainedSource, resolve
from ssm_tune.models.tokenizer import EOS, Tokenizer
from ssm_tune.utils.errors import UserError, shown_name
from ssm_tune.utils.files import atomic_write, encode_json

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_EMBEDDING, _HEAD = "backbone.embedding.weight", "lm_head.weight"

# From the hub: safetensors if the repository has them, else the pickled form.
_WANTED = (
    ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("config.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)


def resolve_model(name: str | Path | PretrainedSource, revision: str | None = None) -> PretrainedSource:
    """The folder of a model's files and, from the hub, its commit; see ``source.resolve``."""
    return resolve(name, revision, _WANTED)


def from_pretrained(
    path_or_name: str | Path | PretrainedSource,
    dtype: torch.dtype | str = "float32",
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> Mamba:
    """A pretrained model of either family, in evaluation mode.

    path_or_name: a folder in the layout of ``state-spaces/mamba-*`` and ``mamba2-*`` or in transformers', the name of
        an embedded model ("tiny"), a hub id, or what ``resolve_model`` gave.
    dtype: float32, bfloat16, float16 or float64. A_log, D and dt_bias stay in float32 where it is narrower, as in the
        original implementation.
    revision: the hub's branch, tag or commit.
    Raises UserError: nothing of that name, hub unreachable, unsupported config, damaged or unfitting weights,
        pickled code, unknown dtype, or a device that is not there.
    """
    dtype, device = _dtype(dtype), _device(device)
    config, tensors = load_checkpoint(resolve_model(path_or_name, revision).folder)
    found = _hash(tensors)
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(device=device, dtype=param_dtype(name, dtype)).contiguous()
    model = _build(config, tensors).eval()
    model.checkpoint_hash = found
    return model


def load_checkpoint(folder: str | Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Sizes and tensors of a checkpoint's folder, complete and of the right shapes, in the file's dtypes.

    A tied head is left out, in whichever form the file has it. Raises UserError as ``from_pretrained``.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors, origin = read_tensors(folder)
    if config.tie_embeddings and _HEAD in tensors:
        head, file = tensors.pop(_HEAD), origin[_HEAD]
        if _EMBEDDING in tensors and not torch.equal(head, tensors[_EMBEDDING]):
            raise UserError(f"{file}: {_HEAD} differs from {_EMBEDDING}, but config.json ties them")
    weights = next(folder / name for name in WEIGHTS if (folder / name).is_file())
    other = next(sizes for sizes in FAMILIES.values() if sizes is not type(config))
    if any(name.endswith(other.marker) for name in tensors) and not any(n.endswith(config.marker) for n in tensors):
        raise UserError(f"{weights}: the weights are those of {other.title}, but config.json is that of {config.title}")
    parts = (name.split(".") for name in tensors)
    layers = len({part[2] for part in parts if part[:2] == ["backbone", "layers"] and len(part) > 3})
    if layers < config.n_layer:  # before a model of so many layers is laid out
        raise UserError(f"{weights}: tensors are missing: of {layers} layers, where config.json has {config.n_layer}")
    shapes = {name: tuple(parameter.shape) for name, parameter in _skeleton(config).named_parameters()}
    for name in shapes:
        if name not in tensors:
            missing = len(shapes.keys() - tensors.keys())
            raise UserError(f"{weights}: tensor {name} is missing ({missing} of {len(shapes)} are)")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise UserError(f"{origin[name]}: tensor {shown_name(name)} has no place in the model of config.json")
        if tuple(tensor.shape) != shapes[name]:
            raise UserError(
                f"{origin[name]}: tensor {name} has shape {tuple(tensor.shape)}, but config.json asks for"
                f" {shapes[name]}"
            )
    return config, tensors


def with_weights_of(model: Mamba) -> Mamba:
    """Another model of the same weights in the same memory, in evaluation mode. model: one without a method."""
    twin = _build(model.config, {name: parameter.data for name, parameter in model.named_parameters()}).eval()
    twin.checkpoint_hash = model.checkpoint_hash
    return twin


def save_pretrained(model: Mamba, folder: str | Path) -> None:
    """Write config.json and model.safetensors in the ``state-spaces`` layout, without what a method added."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _canonical(model).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(original_layout(model.config), indent=1) + "\n", encoding="utf-8")


def save_transformers(config: ModelConfig, weights: dict[str, Tensor], tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer in the layout that transformers reads.

    weights: by the names in ``Mamba``, without a tied head. Raises UserError where a file cannot be written.
    """
    layout = {
        **transformers_layout(config),
        "torch_dtype": str(weights["backbone.layers.0.mixer.in_proj.weight"].dtype).removeprefix("torch."),
        **{f"{kind}_token_id": tokenizer.eos_id for kind in ("bos", "eos", "pad")},
    }
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | {
        f"{kind}_token": EOS for kind in ("bos", "eos", "pad", "unk")
    }
    tensors = {
        name.replace("backbone.embedding.", "backbone.embeddings."): tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
    }
    atomic_write(folder / "tokenizer.json", [tokenizer.content])
    atomic_write(folder / "tokenizer_config.json", [encode_json(about, indent=1), b"\n"])
    atomic_write(folder / "model.safetensors", [safetensors.torch.save(tensors, metadata={"format": "pt"})])
    atomic_write(folder / "config.json", [encode_json(layout, indent=1), b"\n"])


def model_hash(model: Mamba) -> str:
    """sha256, in hex, of the base's present tensors: sorted names, dtypes, shapes and bytes.

    The same after a method was attached, as long as the base's own values stay. ``Mamba.checkpoint_hash`` is that of
    the tensors as the checkpoint holds them, whatever dtype they were loaded in.
    """
    return _hash(_canonical(model))


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _canonical(model: Mamba) -> dict[str, Tensor]:
    """The base's tensors under the checkpoint's names; a tied head counts once, a method's own not at all."""
    own = ((name, tensor) for name, tensor in model.named_parameters() if ".injection." not in name)
    return {name: tensor for name, tensor in own if not name.startswith("prompt.")}


_DRAWING = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)
"""What PyTorch's layers initialize their parameters with, in place."""


class _NoInitialValues(TorchFunctionMode):
    """Leaves out the drawing of initial values, which a tensor without memory cannot hold: PyTorch would import its
    compiler for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if func in _DRAWING else func(*args, **(kwargs or {}))


def _skeleton(config: ModelConfig) -> Mamba:
    with torch.device("meta"), _NoInitialValues():  # names and shapes alone
        return Mamba(config)


def _build(config: ModelConfig, tensors: dict[str, Tensor]) -> Mamba:
    model = _skeleton(config)
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor))
    if config.tie_embeddings:
        model.lm_head.weight = model.backbone.embedding.weight
    return model


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in DTYPES.values():
        raise UserError(f"dtype {dtype!r} is unknown; take one of {', '.join(DTYPES)}")
    return resolved


def _device(device: torch.device | str) -> torch.device:
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all three
        raise UserError(f"device={device}: PyTorch has no such device here; take device=cpu") from error
    if resolved.type == "meta":
        raise UserError("device=meta holds no values; take cpu or cuda")
    return resolved
