"""Words of a query as Spider's official evaluator sees them (taoyds/spider, process_sql).

Quotes of both kinds are one kind, a quoted literal is one word with its case kept, all else is cut by nltk's word
tokeniser and lower-cased. So blanks matter where SQL has none: ``a = 1`` is three words, ``a=1`` is one.
"""

import re
from functools import cache
from itertools import pairwise
from typing import Any

from ssm_tune.metrics.sql.tree import NotParsable

MAX_LENGTH = 20_000
"""Characters in a query. Longer ones are refused: they are no answers, and to cut them into words would take long."""


def tokenize(query: str) -> list[str]:
    """The words of ``query``; literals keep their case and stand in double quotes.

    Raises:
        NotParsable: an odd number of quotes (an apostrophe inside a literal is one), or more than MAX_LENGTH
            characters.
    """
    if len(query) > MAX_LENGTH:
        raise NotParsable(f"longer than {MAX_LENGTH} characters")
    text, literals = _cut_literals(query.replace("'", '"'))
    # a run of one kind of blank means the same as one, and long ones take older versions of nltk quadratic time.
    # Kinds differ: a blank between a full stop and a closing quote is not cut as a line end is.
    try:
        words = [word.lower() for word in _word_tokenizer().tokenize(re.sub(r"(\s)\1+", r"\1", text))]
    except TimeoutError as error:  # new versions of nltk end a search that takes seconds
        raise NotParsable("its words take too long to tell apart") from error
    return _join_comparisons([literals.get(word, word) for word in words])


def _cut_literals(text: str) -> tuple[str, dict[str, str]]:
    """The text with a name in place of every literal, and the literal of every name.

    A name is glued to what stands beside the literal: without blanks around it, it is no word of its own and the
    literal is lost. That is the official behaviour.
    """
    quotes = [place for place, character in enumerate(text) if character == '"']
    if len(quotes) % 2:
        raise NotParsable("an odd number of quotes")
    pieces, literals, end = [], {}, 0
    for first, last in list(pairwise(quotes))[::2]:
        name = f"__val_{first}_{last}__"
        literals[name] = text[first : last + 1]
        pieces += [text[end:first], name]
        end = last + 1
    return "".join([*pieces, text[end:]]), literals


def _join_comparisons(words: list[str]) -> list[str]:
    """``>`` ``=`` to ``>=``, likewise ``<=`` and ``!=``: the word tokeniser cuts them apart."""
    joined: list[str] = []
    for word in words:
        if word == "=" and joined and joined[-1] in ("!", ">", "<"):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


@cache
def _word_tokenizer() -> Any:
    # imported at first use: nltk takes longer to load than the rest of a command. This is what nltk's word_tokenize
    # applies to each sentence; cutting into sentences first changes no query and would need trained data.
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
