"""From a section of the configuration to the object that its ``_target_`` names."""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

from ssm_tune.utils.errors import UserError

Kind = TypeVar("Kind")


def instantiate(section: dict[str, Any], kind: type[Kind]) -> Kind:
    """Call what ``_target_`` names with the section's other keys.

    Not Hydra's own: scoring stored predictions needs no Hydra, and this one insists on what comes out.
    Raises UserError where the target does not exist, takes other options, or is no ``kind``.
    """
    options = dict(section)
    label = f"{kind.__name__.lower()} {section.get('name')!r}"
    target = options.pop("_target_", None)
    if not isinstance(target, str) or "." not in target:
        raise UserError(f"the {label} has no _target_ that names its class")
    module, _, name = target.rpartition(".")
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
