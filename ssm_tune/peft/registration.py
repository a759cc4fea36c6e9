"""Making the methods known to Hugging Face peft.

peft finds a method by a member of its enumeration ``PeftType``, and ``register_peft_method`` refuses names outside it.
There is no public way to add a member, so this file adds them where Python's ``enum`` keeps them. Nothing else of peft
is changed. What it relies on is checked before and after, and a peft that differs is refused with one line.
"""

from __future__ import annotations

import enum
import inspect
from importlib.metadata import PackageNotFoundError, version

OLDEST = {"transformers": (5, 15), "peft": (0, 19)}
"""The oldest versions that the tests passed with; transformers' mixers call their scan by name since 5.15."""


def require_versions() -> None:
    """Raise ImportError where transformers or peft is missing or too old, with the versions that work."""
    for package, oldest in OLDEST.items():
        wanted = f"{package}>={'.'.join(map(str, oldest))}"
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ImportError(f"ssm_tune.peft needs {wanted}: pip install 'ssm-tune[peft]'") from None
        numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
        if numbers < oldest:
            raise ImportError(f"ssm_tune.peft needs {wanted}, found {found}: pip install -U '{wanted}'")


def register(name: str, config_class: type, tuner_class: type) -> None:
    """Register a method with peft under the lower-case ``name``, whose upper-case form becomes its PeftType.

    Registering the same classes again does nothing. Raises ImportError where peft has another method of that name, or
    keeps its enumeration in a way that this file does not know.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import register_peft_method
    from peft.utils.peft_types import PeftType

    if name.upper() in PeftType.__members__:
        registered = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(name.upper()))
        if registered is tuner_class:
            return
        raise ImportError(f"this peft has a method {name} of its own: {_advice()}")
    _add_member(PeftType, name.upper())
    expected = {"name", "config_cls", "model_cls", "prefix"}
    if not expected <= inspect.signature(register_peft_method).parameters.keys():
        raise ImportError(f"peft.utils.register_peft_method has other parameters than expected: {_advice()}")
    register_peft_method(name=name, config_cls=config_class, model_cls=tuner_class, prefix=f"{name}_")


def _add_member(enumeration: type[enum.Enum], name: str) -> None:
    """Add the member ``name``, with the value ``name``, to an enumeration of strings."""
    if not (issubclass(enumeration, str) and issubclass(enumeration, enum.Enum)):
        raise ImportError(f"peft's PeftType is no longer an enumeration of strings: {_advice()}")
    try:
        member = str.__new__(enumeration, name)
        member._name_, member._value_ = name, name
        member._sort_order_ = len(enumeration._member_names_)  # type: ignore[attr-defined]
        member.__objclass__ = enumeration  # type: ignore[attr-defined]
        enumeration._member_names_.append(name)
        enumeration._member_map_[name] = member
        enumeration._value2member_map_[name] = member
        type.__setattr__(enumeration, name, member)  # from Python 3.12 on, members are found as plain attributes
    except AttributeError as error:
        raise ImportError(f"Python's enum keeps its members in another way ({error}): {_advice()}") from error
    known = name in list(enumeration) and enumeration(name) is member and getattr(enumeration, name) is member
    if not known:
        raise ImportError(f"peft's PeftType did not take a new member: {_advice()}")


def _advice() -> str:
    return (
        f"ssm_tune.peft does not know peft {version('peft')}; it was tested with the versions in docs/peft.md, "
        "so install one of them, or a newer ssm-tune"
    )
