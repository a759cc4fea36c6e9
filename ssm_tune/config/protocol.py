"""Which protocol a run follows, and whether its data are the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def published_data(data: Mapping[str, Any]) -> bool:
    """Whether the ``data`` section asks for a published data set, whose counts are then checked."""
    return data["source"] == "hub" or (data["source"] == "local" and data["check"] == "counts")


def resolved_protocol(wanted: str, data: Mapping[str, Any]) -> str:
    """The protocol that ``protocol=auto`` stands for: paper for published data, else standard; others as they are."""
    if wanted != "auto":
        return wanted
    return "paper" if published_data(data) else "standard"
