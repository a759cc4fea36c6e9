"""Mistakes in English sentences: words that change places, are missing, doubled in kind or disagree."""

from __future__ import annotations

import re

from .draw import Draw

# leaving one of these out, or moving it behind the next word, is always a mistake
_SMALL = {
    "a", "an", "the", "to", "in", "at", "is", "will", "has", "and", "for", "by", "on", "with", "be", "as", "from",
    "does", "did", "was",
}  # fmt: skip
_DISAGREE = {
    "is": "are", "has": "have", "works": "work", "lives": "live", "owns": "own", "travels": "travel",
    "goes": "go", "wants": "want", "lends": "lend", "borrows": "borrow", "gets": "get", "gives": "give",
    "needs": "need", "plans": "plan", "comes": "come", "earns": "earn", "will be": "will is", "will go": "will goes",
    "will meet": "will meets", "will bring": "will brings", "will see": "will sees", "will make": "will makes",
    "bought": "buyed", "paid": "payed", "found": "finded", "spent": "spended",
}  # fmt: skip
_VERBS = re.compile(r"\b(" + "|".join(sorted(_DISAGREE, key=len, reverse=True)) + r")\b")


def corrupted(draw: Draw, sentence: str) -> str:
    """``sentence`` with one mistake: a small word missing or behind its neighbour, or a wrong verb form."""
    words = sentence.rstrip(".").split(" ")
    small = [i for i, word in enumerate(words[:-1]) if word in _SMALL] or [1]
    verbs = list(_VERBS.finditer(sentence))
    form = draw.weighted({"order": 3, "missing": 2, "verb": 3})
    if verbs and (form == "verb" or small == [1]):
        found = draw.choice(verbs)
        return sentence[: found.start()] + _DISAGREE[found[1]] + sentence[found.end() :]
    at = draw.choice(small)
    if form == "missing":
        del words[at]
    else:
        words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words) + "."
