"""Compare parameter-efficient fine-tuning methods on state space models.

The Python API, beside the command line::

    model = ssm_tune.from_pretrained("state-spaces/mamba-130m", dtype="bfloat16", device="cuda")
    adapter = ssm_tune.attach(model, "state_offset", rank=4)
    logits = model(input_ids)                                   # (B, L) int64 -> (B, L, V)
    tokens = ssm_tune.generate(model, input_ids, num_beams=5)   # a list of new tokens a row

Names load on first use, so that importing the package needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssm_tune.api import attach, generate, load_adapter
    from ssm_tune.models.pretrained import from_pretrained
    from ssm_tune.models.tokenizer import load_tokenizer

__all__ = ["attach", "from_pretrained", "generate", "load_adapter", "load_tokenizer"]
__version__ = "0.1.0"

_HOMES = {
    "attach": "ssm_tune.api",
    "generate": "ssm_tune.api",
    "load_adapter": "ssm_tune.api",
    "from_pretrained": "ssm_tune.models.pretrained",
    "load_tokenizer": "ssm_tune.models.tokenizer",
}


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ssm_tune' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
