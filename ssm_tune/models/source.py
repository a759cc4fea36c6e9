"""Where a pretrained model or tokenizer comes from: a folder, the package itself, or the Hugging Face hub.

Knows names, folders and revisions, nothing of what the files hold; imports no torch.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssm_tune.errors import UserError

EMBEDDED = Path(__file__).parent
"""Each folder here that holds a config.json is a model that comes with the package."""

OFFLINE = "to work offline give a local folder, or run model=tiny data=sample"


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
    Raises UserError: nothing of that name, hub unreachable, no such repository or revision, or a revision
        asked of something that is not on the hub.
    """
    if isinstance(path_or_name, PretrainedSource):
        return path_or_name
    name = str(path_or_name)
    local = _at_hand(path_or_name)
    if local is None:
        folder = _download(name, revision, wanted)
        return PretrainedSource(name, folder, folder.name)
    if revision is not None:
        raise UserError(f"{name} is {local}, which has no revisions; leave out revision={revision}")
    return PretrainedSource(name, local)


def _at_hand(path_or_name: str | Path) -> Path | None:
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


def _download(repository: str, revision: str | None, wanted: Sequence[Sequence[str]]) -> Path:
    """The hub's snapshot folder, whose name is the commit hash, with the first wanted group that exists."""
    for patterns in wanted:
        folder = _snapshot(repository, revision, patterns)
        found = (path.name for pattern in patterns for path in folder.glob(pattern))
        if any(name != "config.json" for name in found):
            break
    return folder


def _snapshot(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import errors, snapshot_download  # a slow import that local work does not need

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # retries are told by the one line below

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise UserError(f"{repository}: gated on the hub; accept its terms there and log in (hf auth login)") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{repository}: no folder of this name here, and no such repository on the hub (or a private one:"
            " hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repository}: the hub's repository has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise UserError(f"{repository}: not a valid hub id ({first_line(error)})") from error
    except Exception as error:  # the client's transport errors changed with its http library: no common base
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise UserError(f"{repository}: cannot write to the hub's cache ({first_line(error)})") from error
        raise UserError(
            f"{repository}: the hub cannot be reached and its cache here lacks the files"
            f" ({first_line(error)}); {OFFLINE}"
        ) from error


def first_line(error: BaseException) -> str:
    """An exception's kind and the first line of its text, for a message of one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
