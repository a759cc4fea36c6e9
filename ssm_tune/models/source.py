"""Where a pretrained model or tokenizer comes from: a folder, the package itself, or the Hugging Face hub.

Knows names, folders and revisions, nothing of what the files hold; imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.config.groups import model_label
from ssm_tune.hub.download import model_folder
from ssm_tune.utils.errors import UserError, nearest

EMBEDDED = Path(__file__).parent
"""Each folder here that holds a config.json is a model that comes with the package."""

MODEL_KEYS = frozenset(
    (
        "name",
        "source",
        "path",
        "family",
        "revision",
        "tokenizer",
        "tokenizer_revision",
        "dtype",
        "d_model",
        "n_layer",
        "seed",
    )
)
"""The keys that a ``model`` section may have."""


@dataclass(frozen=True)
class PretrainedSource:
    """Files at hand.

    name: what was asked for. folder: where the files lie. revision: the hub's commit hash, to which a branch
    or tag was resolved; None for a folder and for an embedded model.
    """

    name: str
    folder: Path
    revision: str | None = None


def embedded_models() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(config.parent.name for config in EMBEDDED.glob("*/config.json"))


def resolve(
    path_or_name: str | Path | PretrainedSource, revision: str | None, wanted: Sequence[Sequence[str]]
) -> PretrainedSource:
    """Find the folder with a model's or tokenizer's files, downloading from the hub what is not at hand.

    path_or_name: a ``Path`` is always a folder; a string is an embedded model's name, else a folder, else a
        hub id ``owner/name``. A source that was resolved before passes unchanged.
    revision: branch, tag or commit, for the hub alone.
    wanted: groups of file patterns, the preferred one first. From the hub comes the first group of which a
        weight or tokenizer file exists (a config.json alone does not count).
    Raises UserError: nothing of that name, a revision asked of something that is not on the hub, and as
        ``hub.model_folder`` does.
    """
    if isinstance(path_or_name, PretrainedSource):
        return path_or_name
    name = str(path_or_name)
    local = folder_at_hand(path_or_name)
    if local is None:
        return PretrainedSource(name, *model_folder(name, revision, wanted))
    if revision is not None:
        raise UserError(f"{name} is {local}, which has no revisions; leave out revision={revision}")
    return PretrainedSource(name, local)


def folder_at_hand(path_or_name: str | Path) -> Path | None:
    """The folder that a name stands for without the hub; None for a hub id."""
    name = str(path_or_name)
    if isinstance(path_or_name, str) and name in embedded_models():
        return EMBEDDED / name
    path = os.path.expanduser(name)  # with os.path, which answers for impossible names instead of raising
    if name and os.path.isdir(path):
        return Path(path)
    if os.path.isfile(path):
        raise UserError(f"{name} is a file; give the folder that holds it")
    if isinstance(path_or_name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return None
    if isinstance(path_or_name, Path) or os.sep in name or name.startswith((".", "~")):
        raise UserError(f"{name}: no such folder")
    known = ", ".join(embedded_models())
    raise UserError(f"{name!r} is no folder, no embedded model ({known}) and no hub id (owner/name)")


def require_model_path(section: dict[str, Any]) -> None:
    """Raise UserError for a ``model`` section of a checkpoint folder that does not say where the folder is."""
    if section["source"] == "folder" and not section["path"]:
        raise UserError("model=local needs the checkpoint's folder: add model.path=DIR")


def model_name(section: dict[str, Any]) -> str:
    """The name under which a ``model`` section's model stands in records: its own, else that of its folder.

    Raises UserError for an unknown key or a value of the wrong type.
    """
    for key in section.keys() - MODEL_KEYS:
        raise UserError(f"there is no setting 'model.{key}': {nearest(key, sorted(MODEL_KEYS))}")
    for key in ("name", "path", "tokenizer", "revision"):
        if not isinstance(section[key], str | None):
            raise UserError(f"model.{key} must be text, got {section[key]!r}")
    require_model_path(section)
    return model_label(section)
