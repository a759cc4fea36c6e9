"""A cell's identity: what determines its result, hashed into the name of its folder."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

EXECUTION = {
    "train": ("cuda_graphs", "micro_batch", "deterministic", "recompute", "memory"),
    "decode": ("batch_size",),
}
"""Settings that say how a cell is computed, and move its numbers by rounding at most: no part of its identity."""


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def folder_name(cell: dict[str, Any], key: str) -> str:
    """A readable name, safe on every file system, with the first 8 digits of ``key``."""
    options = "".join(f"-{name}={value}" for name, value in sorted(cell["method_options"].items()))
    name = f"{cell['data']}-{cell['model']}-{cell['method']}{options}-{cell['protocol']}-s{cell['seed']}"
    return f"{re.sub(r'[^A-Za-z0-9=._-]+', '_', name)[:120]}-{key[:8]}"
