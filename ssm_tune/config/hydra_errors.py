"""Hydra's and OmegaConf's errors as one line each, with the nearest valid names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import OmegaConf

from ssm_tune.config.groups import conf_dir, names
from ssm_tune.config.schema import Config
from ssm_tune.utils.errors import UserError, nearest


def explain(error: BaseException, arguments: list[str] | None = None) -> str:
    """One line for an error of Hydra or OmegaConf, with the nearest valid names."""
    if isinstance(error, UserError):
        return str(error)
    text, cause = "", error
    while cause is not None:
        text, cause = f"{text}\n{cause}", cause.__cause__  # type: ignore[assignment]
    for pattern, explain in _EXPLANATIONS:
        found = re.search(pattern, text)
        if found:
            return str(explain(*found.groups()))
    for pattern in _UNKNOWN_KEYS:
        found = re.search(pattern, text)
        if found:
            key = found[1].lstrip("+~")
            return f"there is no setting {key!r}: {nearest(key, _known_keys(arguments or []))}"
    return " ".join(str(error).split())


def _unknown_choice(group: str, name: str) -> str:
    return f"there is no {group} {name!r}: {nearest(name, names(group))}"


def _missing_choice(group: str) -> str:
    return f"{group} is not given: add {group}=NAME, one of {', '.join(names(group))}"


def _wrong_value(value: str, wanted: str, key: str) -> str:
    # OmegaConf's words, and Python's, which it uses for others
    kinds = {"integer": "int", "boolean": "bool", "string": "str"}
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    kind = kinds.get(wanted.lower(), wanted.lower())
    return f"{key} must be {words.get(kind, wanted)}, got {value!r}"


def _bad_syntax(text: str) -> str:
    return f"cannot read the argument {text!r}: settings are given as key=value (quote values with blanks or commas)"


def _not_a_value(key: str) -> str:
    return f"{key} is a group of settings and takes no plain value"


_EXPLANATIONS: list[tuple[str, Callable[..., str]]] = [
    (r"Could not find '([\w/]+)/([^'/\n]+)'", _unknown_choice),
    (r"You must specify '(\w+)'", _missing_choice),
    (r"Value '([^'\n]*)' of type '\w+' could not be converted to (\w+)\s+full_key: (\S+)", _wrong_value),
    (r"Value '([^'\n]*)' is not a valid (\w+).*\s+full_key: (\S+)", _wrong_value),
    (r"Error parsing override '([^'\n]*)'", _bad_syntax),
    (r"LexerNoViableAltException: ([^\n]*)", _bad_syntax),
    (r"Error merging override (\w+)=", _not_a_value),
]
_UNKNOWN_KEYS = (r"Could not override '([^'\n]+)'", r"Key '\w+' (?:is not in struct|not in '\w+')\s+full_key: (\S+)")


def _known_keys(arguments: list[str]) -> list[str]:
    """Every setting that this command line could take, dotted: the shared ones, those of its model, task, method."""
    keys = set(_dotted(OmegaConf.to_container(OmegaConf.structured(Config)), ""))
    chosen = dict(argument.lstrip("+").split("=", 1) for argument in arguments if "=" in argument)
    for group in ("model", "task", "method"):
        for name in chosen.get(group, "").split(",") if group in chosen else names(group):
            path = conf_dir() / group / f"{name}.yaml"
            if path.is_file():
                section = OmegaConf.to_container(OmegaConf.load(path))
                assert isinstance(section, dict)
                keys |= set(_dotted(section.get(group, section), f"{group}."))
    return sorted(keys)


def _dotted(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        elif value != "???" and key not in ("defaults", "_target_", "published"):
            yield f"{prefix}{key}"
