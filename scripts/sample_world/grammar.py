"""The little English grammar that the templates need: articles, verb forms, capital letters.

A template holds slots (``{a}``, ``{thing.a}``) and verbs in angle brackets, which take the tense of the text:
``<ask>`` agrees with one person (asks, asked; "I ask" in speech), ``<=ask>`` with a thing even in speech,
``<+ask>`` with several. In clauses ``[I]``, ``[me]``, ``[my]`` stand for the person that the clause is about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

# "spoken" is the first person present of a chat; the other two are told in the third person
Tense = Literal["spoken", "present", "past"]

_PAST = {
    "be": "was", "become": "became", "begin": "began", "break": "broke", "bring": "brought", "build": "built",
    "buy": "bought", "can": "could", "catch": "caught", "choose": "chose", "come": "came",
    "cost": "cost", "do": "did", "hurt": "hurt",
    "drive": "drove", "eat": "ate", "fall": "fell", "feel": "felt", "find": "found", "fly": "flew",
    "forget": "forgot", "get": "got", "give": "gave", "go": "went", "have": "had", "hear": "heard",
    "keep": "kept", "know": "knew", "leave": "left", "lend": "lent", "let": "let", "lose": "lost",
    "make": "made", "meet": "met", "pay": "paid", "put": "put", "read": "read", "ride": "rode", "run": "ran",
    "say": "said", "see": "saw", "sell": "sold", "send": "sent", "set": "set", "sit": "sat", "sleep": "slept",
    "speak": "spoke", "spend": "spent", "swim": "swam", "take": "took", "teach": "taught", "tell": "told",
    "think": "thought", "understand": "understood", "wake": "woke", "wear": "wore", "will": "would",
    "win": "won", "write": "wrote",
    "plan": "planned", "stop": "stopped", "drop": "dropped", "travel": "travelled", "chat": "chatted", "must": "had to",
}  # fmt: skip
_PRESENT = {"be": "is", "have": "has", "do": "does", "go": "goes", "can": "can", "will": "will", "must": "must"}
_AN_EXCEPTIONS = ("uni", "use", "uku", "euro", "one")

_VERB = re.compile(r"<([=+]?)(\w+)>")
_START = re.compile(r"(?:^|(?<=[.!?] )|(?<=\n))([a-z])")


def article(noun: str) -> str:
    """``noun`` with a or an before it."""
    vowel = noun[0].lower() in "aeiou" and not noun.startswith(_AN_EXCEPTIONS)
    return f"{'an' if vowel or noun.startswith('hour') else 'a'} {noun}"


@cache
def inflect(verb: str, tense: Tense, agreement: str = "") -> str:
    """The form of ``verb``; ``agreement`` is "" (one person), "=" (a thing) or "+" (several)."""
    if tense == "past":
        if verb == "be" and agreement == "+":
            return "were"
        if verb in _PAST:
            return _PAST[verb]
        if verb.endswith("e"):
            return verb + "d"
        return verb[:-1] + "ied" if _ends_in_y(verb) else verb + "ed"
    if agreement == "+" or (tense == "spoken" and agreement == ""):
        return {"be": "am" if agreement == "" else "are"}.get(verb, verb)
    if verb in _PRESENT:
        return _PRESENT[verb]
    if _ends_in_y(verb):
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def _ends_in_y(verb: str) -> bool:
    return verb.endswith("y") and verb[-2] not in "aeiou"


def fill(template: str, slots: Mapping[str, Any], tense: Tense) -> str:
    """``template`` with its slots and verbs filled and every sentence begun with a capital."""
    text = template.format_map(slots)
    if "<" in text:
        text = _VERB.sub(lambda m: inflect(m[2], tense, m[1]), text).replace("can not", "cannot")
    return _START.sub(lambda m: m[1].upper(), text)


def listing(items: list[str]) -> str:
    """``x``, ``x and y`` or ``x, y and z``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
