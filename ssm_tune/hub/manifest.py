"""The hub's description of a repository at a revision, kept on disk: its commit, its files, and which were verified."""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ssm_tune.utils.errors import UserError, first_line
from ssm_tune.utils.files import atomic_write, cache_dir, decode_json, encode_json

Kind = Literal["model", "dataset"]
VERSION = 2
"""Of the manifest's layout."""
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A file as the hub describes it. sha256: of the content, for large files; blob: git's sha1, for the others."""

    sha256: str | None
    blob: str | None


@dataclass
class Manifest:
    """revision: as asked for, None for the default branch; commit: what it stood for when it was asked.

    verified: size and modification time (ns) of each file when its content was last verified.
    """

    kind: Kind
    repo: str
    revision: str | None
    commit: str
    entries: dict[str, Entry]
    verified: dict[str, list[int]] = field(default_factory=dict)

    def remember(self) -> None:
        """Save it, merged with what another process verified meanwhile; a warning is logged where that fails."""
        other = remembered(self.kind, self.repo, self.revision)
        if other is not None and other.commit == self.commit:
            self.verified = {**other.verified, **self.verified}
        try:
            content = encode_json({"version": VERSION, "endpoint": _endpoint(), **asdict(self)}, indent=1)
            atomic_write(_path(self.kind, self.repo, self.revision), [content])
        except UserError as error:
            log.warning("the description of %s is not kept and will be downloaded again: %s", self.repo, error)


def remembered(kind: Kind, repo: str, revision: str | None) -> Manifest | None:
    """The manifest that was written for exactly this request and endpoint; a damaged one is reported and not used."""
    path = _path(kind, repo, revision)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    try:
        kept = decode_json(content)
        request = (kept.pop("version"), kept.pop("endpoint"), kept["kind"], kept["repo"], kept["revision"])
        if request != (VERSION, _endpoint(), kind, repo, revision):
            raise ValueError("it belongs to something else")
        kept["entries"] = {name: Entry(**entry) for name, entry in kept["entries"].items()}
        kept["verified"] = dict(kept["verified"])
        return Manifest(**kept)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s is damaged and is made again (%s)", path, first_line(error))
        return None


def _path(kind: Kind, repo: str, revision: str | None) -> Path:
    # a revision may hold any character, and a mirror may describe it otherwise than the hub
    asked = hashlib.sha256(f"{_endpoint()} {revision or ''}".encode()).hexdigest()[:12]
    return cache_dir() / "hub" / f"{kind}--{repo.replace('/', '--')}--{asked}.json"


def _endpoint() -> str:
    """The address of the hub, or of the mirror that HF_ENDPOINT names, as the hub's client reads it."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def in_hub_cache(kind: Kind, repo: str, revision: str | None) -> Manifest | None:
    """What another program left of the revision in the hub's cache, which names contents by the hub's hashes."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repo.replace('/', '--')}"
    commit = revision or constants.DEFAULT_REVISION
    with suppress(OSError, ValueError):
        commit = (cache / "refs" / commit).read_text(encoding="ascii").strip()
    if not COMMIT.fullmatch(commit):
        return None
    folder = cache / "snapshots" / commit
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.resolve().name if path.is_symlink() else ""
            sha256, blob = SHA256.fullmatch(content), COMMIT.fullmatch(content)
            entries[path.relative_to(folder).as_posix()] = Entry(sha256 and sha256[0], blob and blob[0])
    return Manifest(kind, repo, revision, commit, entries) if entries else None
