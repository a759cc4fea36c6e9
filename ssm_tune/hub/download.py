"""Files from the Hugging Face hub: pinned to a commit, checked against the hub's own hashes, then available offline.

The files lie in the user's ordinary hub cache. A manifest of ours, one for each endpoint, repository and revision,
keeps the commit and the hub's list of files, and which of them were verified; with it a later call needs no
network. Deleting it (``hub`` in our cache folder) makes the next call ask the hub again. Imports no torch; the hub's
client and pyarrow are imported where they are needed.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from ssm_tune.hub.manifest import COMMIT, Entry, Kind, Manifest, in_hub_cache, remembered
from ssm_tune.utils.errors import UserError, first_line

WAY_ON = {
    "dataset": "to go on without the hub: data=local data.path=DIR with the official files, or data=sample model=tiny",
    "model": "to work offline give a local folder, or run model=tiny data=sample",
}
NOT_WRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
)
log = logging.getLogger(__name__)
_used: dict[tuple[str, str, str], Path] = {}


@dataclass(frozen=True)
class HubFiles:
    """revision: the full commit hash; files: for each pattern asked for, the local paths in the order of names."""

    repo: str
    revision: str
    files: dict[str, list[Path]]


def dataset_files(repo: str, revision: str | None, patterns: Sequence[str]) -> HubFiles:
    """The files of a data set on the hub that match ``patterns`` (``*`` also crosses folders), downloaded and checked.

    revision: a branch, tag, ref or full commit hash; None for the default branch. Its commit is kept when it is
    first resolved, so that all runs see the same one.

    Raises UserError: hub out of reach and files not in the cache, no such repository, revision or file, content that is
    not what the hub describes, a cache that cannot be written.
    """
    manifest = _manifest("dataset", repo, revision)
    names = {pattern: _matching(manifest, [pattern]) for pattern in patterns}
    for pattern, found in names.items():
        if not found:
            there = ", ".join(sorted(manifest.entries)[:8]) or "no files"
            raise UserError(
                f"{repo} has no file {pattern} at commit {manifest.commit[:12]} (it holds {there}); "
                + WAY_ON["dataset"]
            )
    paths = _fetched(manifest, sorted({name for found in names.values() for name in found}))
    _used.update({(repo, manifest.commit, name): path for name, path in paths.items()})
    return HubFiles(
        repo, manifest.commit, {pattern: [paths[name] for name in found] for pattern, found in names.items()}
    )


def used_files() -> dict[tuple[str, str, str], Path]:
    """The data files that this process used since the last call, by repository, commit and name."""
    used = dict(_used)
    _used.clear()
    return used


def model_folder(repo: str, revision: str | None, wanted: Sequence[Sequence[str]]) -> tuple[Path, str]:
    """The folder with a checkpoint's or tokenizer's files from the hub, downloaded and checked, and their commit.

    wanted: groups of names or patterns in the repository's top folder, the preferred one first; taken is the first
    of which a file other than config.json exists. Raises UserError as ``dataset_files`` does.
    """
    manifest = _manifest("model", repo, revision)
    for group in wanted:
        names = [name for name in _matching(manifest, group) if "/" not in name]
        if any(name != "config.json" for name in names):
            return _fetched(manifest, names)[names[0]].parent, manifest.commit
    asked = ", ".join(dict.fromkeys(pattern for group in wanted for pattern in group if pattern != "config.json"))
    raise UserError(f"{repo} has none of {asked} at commit {manifest.commit[:12]}; {WAY_ON['model']}")


def model_commit(repo: str, revision: str | None) -> str:
    """The commit that ``model_folder`` would take, without the files. Raises UserError as it does."""
    return _manifest("model", repo, revision).commit


def read_table(paths: Sequence[Path], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of parquet or csv files, one file after the other, with these columns alone.

    A missing value is None. In csv every value is text, and an empty field without quotes is a missing value.

    Raises UserError for a file that cannot be read, or one without such a column.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        rows += _read_one(path, list(columns))
    return rows


def _read_one(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    kind = path.suffix.lower()
    if kind not in (".parquet", ".csv"):
        raise UserError(f"{path}: neither .parquet nor .csv")
    try:
        return _read_parquet(path, columns) if kind == ".parquet" else _read_csv(path, columns)
    except UserError:
        raise
    except Exception as error:  # a damaged file brings the parsers down in many ways
        raise UserError(f"{path}: cannot be read as {kind[1:]} ({first_line(error)})") from error


def _read_parquet(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    import datasets  # takes seconds to import

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:  # its own copy, which is not needed twice
        try:
            table = datasets.Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        except datasets.exceptions.DatasetGenerationError as error:
            cause = error.__cause__ or error
            raise UserError(f"{path}: cannot be read as parquet ({first_line(cause)})") from error
        _check_columns(path, columns, table.column_names)
        return table.select_columns(columns).to_list()


def _read_csv(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import csv

    convert = csv.ConvertOptions(
        column_types={column: pyarrow.string() for column in columns},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    # texts have line breaks, and a block must hold the longest row: the whole file is one block
    read = csv.ReadOptions(block_size=max(path.stat().st_size + 1, 1 << 16))
    parse = csv.ParseOptions(newlines_in_values=True)
    table = csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    _check_columns(path, columns, table.column_names)
    return table.select(columns).to_pylist()


def _check_columns(path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    for column in wanted:
        if column not in there:
            raise UserError(f"{path} has no column {column!r}: it holds {', '.join(there)}")


def _matching(manifest: Manifest, patterns: Sequence[str]) -> list[str]:
    """Names in the manifest that match any pattern, sorted."""
    return sorted(name for name in manifest.entries if any(fnmatch.fnmatchcase(name, one) for one in patterns))


def _manifest(kind: Kind, repo: str, revision: str | None) -> Manifest:
    """The manifest of ``revision``: the one kept here, else from the hub, else from the files in the hub's cache."""
    if kept := remembered(kind, repo, revision):
        return kept
    from huggingface_hub import HfApi, errors

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the error's one line reports the retries
    with _explained(kind, repo, revision):
        try:
            info: Any = HfApi().repo_info(repo, repo_type=kind, revision=revision, files_metadata=True)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
            raise
        except Exception:  # the client's transport errors changed with its http library: no common base
            if cached := in_hub_cache(kind, repo, revision):
                _warn_of_cache(repo, cached.commit)
                return cached
            raise
    if revision is not None and COMMIT.fullmatch(revision) and info.sha != revision:
        raise UserError(f"{repo}: the hub answered with commit {info.sha}, asked was {revision}")
    entries = {
        file.rfilename: Entry(file.lfs["sha256"] if file.lfs else None, file.blob_id) for file in info.siblings or []
    }
    for name in entries:
        if "\\" in name or name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"{repo}: the hub lists a file {name!r}, which would lie outside its folder; {WAY_ON[kind]}"
            )
    manifest = Manifest(kind, repo, revision, info.sha, entries)
    manifest.remember()
    return manifest


@cache
def _warn_of_cache(repo: str, commit: str) -> None:
    log.warning("%s: the hub cannot be reached; using what another program left in its cache, commit %s", repo, commit)


def _fetched(manifest: Manifest, names: Sequence[str]) -> dict[str, Path]:
    """Local paths of these files of the commit; downloads and checks what was not verified before."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    kind, repo, commit = manifest.kind, manifest.repo, manifest.commit
    paths, fresh = {}, False
    for name in names:
        with _explained(kind, repo, commit, name):
            cached = try_to_load_from_cache(repo, name, revision=commit, repo_type=kind)
            path = Path(
                cached if isinstance(cached, str) else hf_hub_download(repo, name, revision=commit, repo_type=kind)
            )
            stamp = [path.stat().st_size, path.stat().st_mtime_ns]
            if manifest.verified.get(name) != stamp:
                _verify(manifest, name, path)
                manifest.verified[name] = stamp
                fresh = True
        paths[name] = path
    if fresh and remembered(kind, repo, manifest.revision):  # a manifest made from the cache may lack files
        manifest.remember()
    return paths


def _verify(manifest: Manifest, name: str, path: Path) -> None:
    """Compare a file's content with the hub's hash of it; a bad one is removed, so that the next try downloads it.

    Raises UserError where they differ.
    """
    repo, entry = manifest.repo, manifest.entries[name]
    expected = entry.sha256 or entry.blob
    if expected is None:
        log.warning("%s: the hub names no hash of %s; its content is not checked", repo, name)
        return
    digest = hashlib.sha256() if entry.sha256 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        for bad in {path.resolve(), path}:
            bad.unlink(missing_ok=True)
        raise UserError(
            f"{repo}: {name} is damaged: its hash is {digest.hexdigest()[:12]}, the hub's is {expected[:12]}; it was "
            f"removed, and the same command downloads it again; {WAY_ON[manifest.kind]}"
        )


@contextmanager
def _explained(kind: Kind, repo: str, revision: str | None, file: str = "") -> Iterator[None]:
    """Turn any error of the hub's client into a UserError of one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client's transport errors changed with its http library: no common base
        raise UserError(f"{repo}: {_explanation(kind, revision, file, error)}; {WAY_ON[kind]}") from error


def _explanation(kind: Kind, revision: str | None, file: str, error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "gated on the hub; accept its terms there and log in (hf auth login)"
    if isinstance(error, errors.RepositoryNotFoundError):
        local = "no folder of this name here, and " if kind == "model" else ""
        return f"{local}no such repository on the hub (or a private one: hf auth login)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub's repository has no revision {revision!r}"
    if isinstance(error, errors.HFValidationError):
        return f"not a valid hub id ({first_line(error)})"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, FileNotFoundError):
        return f"the hub lists {file} but does not have it ({first_line(error)})"
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in NOT_WRITABLE:
            return f"cannot write to the hub's cache ({first_line(cause)}); HF_HOME=DIR puts it elsewhere"
        cause = cause.__cause__
    return f"the hub cannot be reached and its cache here lacks {file or 'the files'} ({first_line(error)})"
