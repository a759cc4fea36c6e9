"""Small text rules that prompts, outputs and references share."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# In this order; the rule of transformers' ``clean_up_tokenization_spaces``, which the official code decodes with.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up(text: str) -> str:
    """Take out the blanks before punctuation and clitics."""
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


def as_decoded(text: str) -> str:
    """A reference as a prediction is scored: NFC-normalised and cleaned up.

    Some tokenizers normalise to NFC and others do not, so predictions are normalised when they are scored (``nfc``).
    """
    return clean_up(nfc(text))


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def normalised_signature(references: Iterable[str]) -> str:
    """The end of a metric's signature over these references: said where the normalisation changes one of them."""
    return " | texts in NFC" if any(nfc(text) != text for text in references) else ""


def printable(text: str) -> str:
    """A text of one line that a terminal shows as it is: what is no visible character is written as an escape.

    Control characters (terminal escapes, line ends) and invisible ones (directions, joiners) are such.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
