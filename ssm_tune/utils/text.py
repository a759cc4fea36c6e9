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
