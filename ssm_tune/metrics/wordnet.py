"""Finds WordNet on this machine and opens it with nltk's own reader, from nltk's data or from Debian's package.

Importing this module imports nltk, which takes a second.
"""

import io
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nltk.data
from nltk.corpus.reader.wordnet import WordNetCorpusReader

from ssm_tune.utils.errors import UserError, first_line

VARIABLE = "WNSEARCHDIR"
"""WordNet's own name for the folder of its database, wnintro(5WN)."""
DEBIAN = Path("/usr/share/wordnet")
HOW_TO_GET_IT = (
    f"python -m nltk.downloader wordnet, or apt-get install wordnet-base, or {VARIABLE}=<folder with its data.noun>"
)
# (word class, its number, its lexicographer files) in the order of their numbers, lexnames(5WN)
_LEXICOGRAPHER_FILES = (
    ("adj", 3, "all pert"),
    ("adv", 4, "all"),
    (
        "noun",
        1,
        "Tops act animal artifact attribute body cognition communication event feeling food group location motive "
        "object person phenomenon plant possession process quantity relation shape state substance time",
    ),
    (
        "verb",
        2,
        "body change cognition communication competition consumption contact creation emotion motion perception "
        "possession social stative weather",
    ),
    ("adj", 3, "ppl"),
)


class Reader(WordNetCorpusReader):
    """nltk's reader, content with the files of Debian's wordnet-base, which lacks ``lexnames`` and ``index.sense``."""

    def open(self, file: str) -> Any:
        if file == "lexnames":  # the same 45 lines in every WordNet 3
            names = [(kind, number, name) for kind, number, files in _LEXICOGRAPHER_FILES for name in files.split()]
            lines = (f"{i:02}\t{kind}.{name}\t{number}\n" for i, (kind, number, name) in enumerate(names))
            return io.StringIO("".join(lines))
        return super().open(file)

    def map_wn(self, version: str = "wordnet") -> None:
        """Skips the map from index.sense to other versions' synsets: only other languages are looked up in it."""


@dataclass(frozen=True)
class WordNet:
    """reader: nltk's; description: version and origin in a few words, for signatures."""

    reader: Reader
    description: str


@cache
def load_wordnet() -> WordNet:
    """WordNet from the folder that WNSEARCHDIR names, else nltk's data, else Debian's package: once per process.

    Raises:
        UserError: there is none, or what is there cannot be read.
    """
    where: Any = None
    try:
        where, origin = _locate()
        with warnings.catch_warnings():  # about other languages, which need more data
            warnings.filterwarnings("ignore", message="The multilingual functions are not available")
            reader = Reader(where, None)
        if not (version := reader.get_version()):
            raise ValueError("data.adj does not say which version it is")
        return WordNet(reader, f"WordNet {version} ({origin})")
    except UserError:
        raise
    except Exception as error:  # a damaged database brings nltk's parser down in many ways
        what = first_line(error)
        raise UserError(
            f"WordNet at {where or 'nltk data'} cannot be read ({what}); get it: {HOW_TO_GET_IT}"
        ) from error


def _locate() -> tuple[Any, str]:
    """nltk's pointer to the database, and what to call its origin."""
    if named := os.environ.get(VARIABLE):
        folder = Path(named).expanduser()
        if not (folder / "data.noun").is_file():
            raise UserError(f"{VARIABLE}={named} is no folder of WordNet: it has no data.noun; unset it or correct it")
        return _pointer(folder), VARIABLE
    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):  # the downloader leaves it packed
        with suppress(LookupError):
            return nltk.data.find(name), "nltk data"
    if (DEBIAN / "data.noun").is_file():
        return _pointer(DEBIAN), "Debian wordnet-base"
    raise UserError(f"METEOR with synonyms needs WordNet, which is not on this machine; get it: {HOW_TO_GET_IT}")


def _pointer(folder: Path) -> nltk.data.FileSystemPathPointer:
    """nltk reads below the folders of its data path alone, so this one becomes such a folder."""
    path = str(folder.resolve())
    if path not in nltk.data.path:
        nltk.data.path.append(path)
    return nltk.data.FileSystemPathPointer(path)
