"""From a section of the configuration to the object that its ``_target_`` names."""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

from ssm_tune.errors import UserError

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
        made = getattr(importlib.import_module(module), name)(**options)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"the {label} cannot be made from {target}: {error}") from error
    if not isinstance(made, kind):
        raise UserError(f"{target} is no {kind.__name__}")
    return made
