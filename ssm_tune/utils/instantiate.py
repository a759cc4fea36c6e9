"""From a section of a configuration, a record or an adapter to the method or task that it names.

Sections come from files, too, and what comes from a file must not choose what code runs. So a section's ``_target_``
may name a class of the modules that ssm-tune ships for the purpose, and nothing else is imported; a class elsewhere is
imported only if the user has named that very class on the command line, with ``--trust-code MODULE.CLASS``.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ssm_tune.utils.errors import UserError

Kind = TypeVar("Kind")
TRUST_OPTION, TRUST_VARIABLE = "--trust-code", "SSM_TUNE_TRUST_CODE"
"""The option, and the variable of the environment by which it reaches the processes that a sweep starts."""


def instantiate(section: dict[str, Any], kind: type[Kind], package: str) -> Kind:
    """Call the class that ``_target_`` names with the section's other keys.

    package: whose modules' classes may be named, as "ssm_tune.methods".
    Raises UserError where the class is another, does not exist, takes other options, or is no ``kind``.
    """
    options = dict(section)
    label = f"{kind.__name__.lower()} {section.get('name')!r}"
    target = options.pop("_target_", None)
    if not isinstance(target, str) or "." not in target:
        raise UserError(f"the {label} has no _target_ that names its class")
    module, _, name = target.rpartition(".")
    installed = {f"{package}.{found.name}" for found in pkgutil.iter_modules(importlib.import_module(package).__path__)}
    if module not in installed and target not in trusted_classes():
        hint = f". If you trust that code, add {TRUST_OPTION} {target} to the command" if _is_class_name(target) else ""
        raise UserError(
            f"the {label} is of the class {target!r}, which is not one of ssm-tune's {package.rpartition('.')[2]}; "
            f"nothing of it was run{hint}"
        )
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the {label} cannot be made from {target}: {error}") from error
    if not (isinstance(made, type) and issubclass(made, kind)):  # before the call: the name may come from a file
        raise UserError(f"{target} is no {kind.__name__}")
    try:
        return made(**options)
    except TypeError as error:
        what = str(error).partition("() ")[2] or str(error)
        raise UserError(f"the {label} cannot be made: {what}") from error


def trusted_classes() -> list[str]:
    """The classes outside ssm-tune that the user has named."""
    return os.environ.get(TRUST_VARIABLE, "").split()


@contextmanager
def trusting(classes: list[str]) -> Iterator[None]:
    """Within it, in this process and those that it starts, ``classes`` may be instantiated, too."""
    before = os.environ.get(TRUST_VARIABLE)
    if classes:
        os.environ[TRUST_VARIABLE] = " ".join([*trusted_classes(), *classes])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(TRUST_VARIABLE, None)
        else:
            os.environ[TRUST_VARIABLE] = before


def take_trusted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A command line without its ``--trust-code`` options, and the classes that they name. Raises UserError."""
    rest: list[str] = []
    classes: list[str] = []
    words = iter(arguments)
    for word in words:
        option, separator, value = word.partition("=")
        if option != TRUST_OPTION:
            rest.append(word)
            continue
        value = value if separator else next(words, "")
        if not _is_class_name(value):
            raise UserError(f"{TRUST_OPTION} takes a class, as MODULE.CLASS, got {value!r}")
        classes.append(value)
    return rest, classes


def _is_class_name(text: str) -> bool:
    """Whether it may be MODULE.CLASS."""
    return "." in text and text.isascii() and all(part.isidentifier() for part in text.split("."))
