"""Small text rules that prompts, outputs and references share."""

from __future__ import annotations

import unicodedata

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
    """A reference as it comes back from being encoded and decoded: NFC-normalised and cleaned up.

    Byte-level tokenizers lose nothing else, so references need no tokenizer at scoring time.
    """
    return clean_up(unicodedata.normalize("NFC", text))


def printable(text: str) -> str:
    """A text of one line that a terminal shows as it is: what is no visible character is written as an escape.

    Control characters (terminal escapes, line ends) and invisible ones (directions, joiners) are such.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
