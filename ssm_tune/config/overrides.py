"""Settings as they stand on a command line: read by Hydra's grammar, and written so that it reads them back."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from ssm_tune.config.groups import names
from ssm_tune.utils.errors import UserError

MOST_VALUES = 10_000
"""Of one setting, and of all combinations that one command line asks for."""
_NO_TEXT = ("null", "true", "false", "nan", "inf")
_PLAIN = re.compile(r"[a-z_][\w./@-]*", re.ASCII)
_SETTING = re.compile(r"(\+{0,2}[\w./@-]+)=(.*)", re.ASCII | re.DOTALL)


def on_command_line(value: Any) -> str:
    """A value as Hydra reads it from its command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(on_command_line(item) for item in value)}]"
    if not isinstance(value, str) or (_PLAIN.fullmatch(value) and value not in _NO_TEXT):
        return str(value)
    # OmegaConf looks up ${name}, unless a backslash stands before it; of several before it, it takes every second
    literal = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    # Hydra reads a backslash as one, except before a quote and at the end
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), literal)
    return f"'{escaped}'"


def shell_word(text: str) -> str:
    """One word of a command line, quoted for the shell where it has to be."""
    if not text.isprintable() or re.search(r"[\"$`\\!]", text):
        return shlex.quote(text)
    return text if shlex.quote(text) == text else f'"{text}"'


def at_home(argument: str) -> str:
    """The argument with a value that begins with ~ or ~/ expanded to the home folder."""
    found = _SETTING.fullmatch(argument)
    if found is None or not re.match(r"~(/|$)", found[2]):
        return argument
    return f"{found[1]}={on_command_line(str(Path(found[2]).expanduser()))}"


def parsed(argument: str) -> Override:
    """The argument as Hydra reads it.

    Raises UserError where it is no key=value of Hydra's grammar, with the quotes that make it one; and for what takes
    a setting out, for each has a value.
    """
    try:
        override: Override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise UserError(_unreadable(argument)) from error
    key = override.get_key_element()
    if not key:
        raise UserError(_unreadable(argument))
    if override.is_delete():
        name = key.lstrip("~")
        raise UserError(f"{argument}: a setting cannot be taken out; give it another value, {name}=VALUE")
    if key.lstrip("+").startswith("hydra.") and "_target_" in key:
        raise UserError(f"{argument}: a launcher is chosen by its name, hydra/launcher=serial, local or slurm")
    return override


def values_of(argument: str) -> list[str]:
    """The settings that an argument of a sweep stands for: one for each of its values. Raises UserError."""
    override = parsed(argument)
    key, value = override.get_key_element(), override.value()
    if isinstance(value, Glob):
        found = [f"{key}={name}" for name in value.filter(names(key.lstrip("+")))]
        if not found:
            there = ", ".join(names(key.lstrip("+"))) or "none"
            raise UserError(f"{argument}: there is no such {key.lstrip('+')}; there are {there}")
        return found
    if not override.is_sweep_override():
        return [argument]
    if not override.is_discrete_sweep():
        raise UserError(f"{argument}: give the values of a sweep as a list, a,b,c")
    found = []
    for item in override.sweep_string_iterator():
        found.append(f"{key}={item}")
        if len(found) > MOST_VALUES:
            raise UserError(f"{argument} has more than {MOST_VALUES:,} values: split the sweep")
    return found


def require_single(arguments: Sequence[str]) -> None:
    """Raise UserError for an argument with several values, which only a sweep (-m) takes, or that cannot be read."""
    for argument in arguments:
        if not argument.startswith("-") and parsed(argument).is_sweep_override():
            hint = f", or quote a value that holds commas or parentheses: {_quoted(argument)}"
            raise UserError(f"{argument}: several values take several runs: add -m for them{hint}")


def _unreadable(argument: str) -> str:
    quoted = _quoted(argument)
    if quoted is None:
        return f"cannot read the argument {argument!r}: settings are given as key=value"
    return f"cannot read the argument {argument!r}: write it as {quoted}"


def _quoted(argument: str) -> str | None:
    """The argument with its value in quotes, as a shell takes it; None where it is no key=value."""
    found = _SETTING.fullmatch(argument)
    return shell_word(f"{found[1]}={on_command_line(found[2])}") if found else None
