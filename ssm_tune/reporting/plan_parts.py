"""Parts of a table's plan: groups of settings and lists, with what is wrong with them in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def section(part: Any, keys: Sequence[str] | None, what: str) -> dict[str, Any]:
    from ssm_tune.utils.errors import nearest

    if not isinstance(part, dict):
        raise ValueError(f"{what} must be a group of settings, got {part!r}")
    for key in part:
        if keys is not None and key not in keys:
            raise ValueError(f"{what} has no setting {key!r}: {nearest(str(key), list(keys))}")
    return {str(key): value for key, value in part.items()}


def listed(parts: Any, what: str) -> list[Any]:
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"{what} must be a list that is not empty, got {parts!r}")
    return parts
