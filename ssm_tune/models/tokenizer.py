"""Text to token ids and back, by a ``tokenizer.json`` of the tokenizers library; imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from ssm_tune.models.source import PretrainedSource, resolve
from ssm_tune.utils.errors import UserError, first_line
from ssm_tune.utils.text import clean_up as without_blanks

EOS = "<|endoftext|>"
MOST_IDS = 10_000_000
"""Ids that a tokenizer may have; more than any has, and few enough for a table of them."""


class Tokenizer:
    """Encodes and decodes exactly what it is given: nothing added, truncated or padded.

    eos_id: id of ``<|endoftext|>``, which is also recognised inside text.
    vocab_size: one more than the highest id. content: the file's bytes; hash: their sha256, in hex.
    Raises UserError: a file that is missing or malformed, or without ``<|endoftext|>``; and where the library fails on
    what the file asks for.
    """

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file)
        try:
            content = self._file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot read the tokenizer ({error.strerror})") from error
        self.content, self.hash = content, hashlib.sha256(content).hexdigest()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except BaseException as error:  # the library raises bare Exception, and panics with an error beside it
            _unless_a_panic(error)
            raise UserError(f"{file}: not a tokenizer.json ({first_line(error)})") from error
        self._tokenizer.no_truncation()  # a file may ask for both
        self._tokenizer.no_padding()
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        if EOS not in ids:
            raise UserError(f"{file}: the tokenizer has no {EOS} token, which ends every target")
        self.eos_id: int = ids[EOS]
        self.vocab_size: int = max(ids.values()) + 1
        if self.vocab_size > MOST_IDS:
            raise UserError(f"{file}: has ids up to {self.vocab_size - 1}; at most {MOST_IDS} are supported")
        if self.encode(EOS) != [self.eos_id]:
            raise UserError(f"{file}: the tokenizer does not read {EOS} inside text as one token")

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises UserError for a text that is not valid Unicode (a lone surrogate)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, in order; the same as one by one, but many at a time."""
        try:
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except TypeError as error:
            for text in texts:
                _check_unicode(text)
            raise error
        except BaseException as error:
            _unless_a_panic(error)
            raise UserError(f"{self._file}: the tokenizer cannot encode ({first_line(error)})") from error
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], clean_up: bool = True) -> str:
        """Text of the ids, special tokens spelled out; ``clean_up`` applies the protocol's blank clean-up.

        The ids of a padded vocabulary's last rows stand for no token and give no text.
        """
        try:
            text = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        except BaseException as error:
            _unless_a_panic(error)
            raise UserError(f"{self._file}: the tokenizer cannot decode ({first_line(error)})") from error
        return without_blanks(text) if clean_up else text

    def check_fits(self, vocab_rows: int) -> None:
        """Raise UserError unless a model with so many embedding rows has one for every token."""
        if self.vocab_size > vocab_rows:
            raise UserError(
                f"{self._file}: the tokenizer has ids up to {self.vocab_size - 1}, but the model's embedding"
                f" has {vocab_rows} rows; take the tokenizer that the model was trained with"
            )


def load_tokenizer(path_or_name: str | Path | PretrainedSource, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``, of a folder with one, of an embedded model, or of a hub id.

    Raises UserError as ``Tokenizer`` and ``source.resolve`` do, and where there is no tokenizer.json.
    """
    if not isinstance(path_or_name, PretrainedSource) and str(path_or_name).endswith(".json"):
        if revision is not None:
            raise UserError(f"{path_or_name} is a file, without revisions; leave out revision={revision}")
        return Tokenizer(os.path.expanduser(path_or_name))
    source = resolve(path_or_name, revision, wanted=[["tokenizer.json"]])
    file = source.folder / "tokenizer.json"
    if not file.is_file():
        where = f"{source.name} at revision {source.revision}" if source.revision else str(source.folder)
        raise UserError(
            f"{where} holds no tokenizer.json; name a tokenizer that fits the model (the published Mamba"
            " checkpoints take EleutherAI/gpt-neox-20b)"
        )
    return Tokenizer(file)


def _unless_a_panic(error: BaseException) -> None:
    """Raise Ctrl-C and the like again; a panic of the tokenizers library, which is no Exception, is an error."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _check_unicode(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"a text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, so"
            f" it is not valid Unicode and cannot be tokenised: {text[: error.start][-40:]!r}"
        ) from error
