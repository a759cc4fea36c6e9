"""Training sequences as flat arrays, tokenised once and kept between runs; imports no torch.

Large splits take gigabytes as lists of Python numbers and minutes to tokenise. Here they lie in files that are
mapped into memory, in a folder whose name is the hash of what determines them: texts, tokenizer and code.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import tokenizers
from numpy.typing import NDArray

from ssm_tune.data.tokenization import TokenizedExample, tokenize_training
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks.base import Example, Task
from ssm_tune.utils.errors import UserError, first_line
from ssm_tune.utils.files import atomic_write, cache_dir, decode_json, encode_json

VERSION = 2
"""Raised whenever a change of code makes other tokens of the same texts."""
DTYPES = {"tokens": np.int32, "ends": np.int64, "labels": np.int32}
DIGESTS = "sha256.json"
"""The digests of an entry's files, by which damage is found."""
ABANDONED_SECONDS = 86_400.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TokenizedDataset(Sequence[TokenizedExample]):
    """TokenizedExample examples, read like a list of them.

    tokens: (all tokens,) int32, one sequence after the other; ends: (N,) int64, where each ends; labels: (N,) int32,
    how many of its last tokens carry the loss.
    """

    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedExample]: ...
    def __getitem__(self, index: int | slice) -> TokenizedExample | list[TokenizedExample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        index %= len(self)
        start = self.ends[index - 1] if index else 0
        return TokenizedExample(self.tokens[start : self.ends[index]].tolist(), int(self.labels[index]))

    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return np.diff(self.ends, prepend=0).tolist()


def tokenized_training_set(examples: Sequence[Example], task: Task, tokenizer: Tokenizer) -> TokenizedDataset:
    """The examples as ``tokenize_training`` has them, from the cache where it holds them, and kept there otherwise.

    A damaged entry is built again, and without a writable cache nothing is kept; a warning is logged for either.
    Raises UserError as ``tokenize_training`` does.
    """
    folder = cache_dir() / "tokens" / _key(examples, task, tokenizer)
    damaged = False
    if folder.exists():
        try:
            return _read(folder, len(examples))
        except (OSError, ValueError, EOFError, RecursionError) as error:
            log.warning("%s is damaged and is built again (%s)", folder, first_line(error))
            damaged = True
    fresh = concatenated(tokenize_training(examples, task, tokenizer))
    try:
        _write(folder, fresh, damaged)
        return _read(folder, len(examples))
    except (OSError, ValueError, EOFError, UserError) as error:
        log.warning("the tokens are not kept for the next run (%s)", first_line(error))
        return fresh


def concatenated(encoded: Iterator[TokenizedExample]) -> TokenizedDataset:
    """TokenizedDataset in memory."""
    tokens, lengths, labels = [], [], []
    for one in encoded:
        tokens.append(np.asarray(one.tokens, DTYPES["tokens"]))
        lengths.append(len(one.tokens))
        labels.append(one.labels)
    flat = np.concatenate(tokens) if tokens else np.zeros(0, DTYPES["tokens"])
    return TokenizedDataset(flat, np.cumsum(lengths, dtype=DTYPES["ends"]), np.asarray(labels, DTYPES["labels"]))


def _key(examples: Sequence[Example], task: Task, tokenizer: Tokenizer) -> str:
    """Hash of all that determines the tokens: the very texts, the tokenizer's file and its library, and the code."""
    about = [VERSION, tokenizers.__version__, tokenizer.hash, task.mode]
    digest = hashlib.sha256(json.dumps(about).encode())
    for example in examples:
        row = [example.prefix, example.prompt, task.completion(example)]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _read(folder: Path, count: int) -> TokenizedDataset:
    """Map an entry into memory. Raises ValueError (or OSError, EOFError) for one that is not what was written."""
    digests = decode_json((folder / DIGESTS).read_bytes())
    if not isinstance(digests, dict):
        raise ValueError(f"{DIGESTS} holds no digests")
    arrays = []
    for name, dtype in DTYPES.items():
        path = folder / f"{name}.npy"
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digests.get(name):
                raise ValueError(f"{path.name} does not match its digest")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype != dtype or array.ndim != 1:
            raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions")
        arrays.append(array)
    tokens, ends, labels = arrays
    if len(ends) != count or len(labels) != count or len(tokens) != (ends[-1] if count else 0):
        raise ValueError(f"it holds {len(ends)} sequences of {count}, in {len(tokens)} tokens")
    return TokenizedDataset(tokens, ends, labels)


def _write(folder: Path, sequences: TokenizedDataset, damaged: bool) -> None:
    """Put an entry into its place, complete or not at all; where another process was first, its entry stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    mark = uuid.uuid4().hex
    temporary, aside = (folder.with_name(f".{folder.name[:16]}.{mark}.{what}") for what in ("tmp", "old"))
    try:
        temporary.mkdir()
        digests = {}
        for name in DTYPES:
            chunks = _npy(getattr(sequences, name))
            # synchronised to the disk, or a power cut could leave zeros, and 0 is a token
            atomic_write(temporary / f"{name}.npy", chunks)
            digests[name] = hashlib.sha256(chunks[0])
            digests[name].update(chunks[1])
        atomic_write(temporary / DIGESTS, [encode_json({name: one.hexdigest() for name, one in digests.items()})])
        if damaged:
            with suppress(FileNotFoundError):
                os.rename(folder, aside)
        with suppress(OSError):  # another process was first: the next read checks its entry
            os.rename(temporary, folder)
    finally:
        for left in (temporary, aside):
            shutil.rmtree(left, ignore_errors=True)


def _npy(array: NDArray[Any]) -> list[bytes | memoryview]:
    """A one-dimensional array as an .npy file holds it: header and content, which is not copied."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return [header.getvalue(), np.ascontiguousarray(array).view(np.uint8).data]


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed have left half-written; younger ones may still be at work."""
    for left in (*folder.glob(".*.tmp"), *folder.glob(".*.old")):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
