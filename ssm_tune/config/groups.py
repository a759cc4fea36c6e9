"""The groups of yamls below conf/: where they are, what choices each has, and what a method's yaml holds."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ssm_tune.utils.errors import UserError, nearest
from ssm_tune.utils.yaml_files import read_yaml

GROUPS = ("method", "task", "model", "data", "tuned")
"""Those of which a run has one choice each."""
FAMILIES = ("mamba", "mamba2")
"""The families of models, the usual one first."""
COMMON = ("_target_", "name", "published", "learning_rate")
"""What all methods' sections hold, beside their own options."""
_INSIDE = Path(__file__).resolve().parent.parent / "conf"


def conf_dir() -> Path:
    """The folder of yamls: inside the package in a wheel, beside it in a checkout."""
    return _INSIDE if is_installed() else _INSIDE.parent.parent / "conf"


def is_installed() -> bool:
    """Whether the yamls lie inside the package, where a user writes none: it is no checkout."""
    return _INSIDE.is_dir()


def names(group: str) -> list[str]:
    """The choices of a group of yamls, as ``method=NAME`` takes them."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def benchmarks() -> list[str]:
    """The tasks that have published data and a part in the sample world: all but those for data of one's own."""
    return [name for name in names("task") if "data" not in read_yaml(conf_dir() / "task" / f"{name}.yaml")]


def read_plan(path: Path, where: str | None = None) -> Any:
    """The plain content of a yaml of conf/sweep, conf/search or conf/table. One with ``extends: NAME`` takes what it
    does not hold itself from NAME.yaml beside it. where: how errors name the file.

    Raises UserError where the file cannot be read, or NAME is none or extends another.
    """
    content = read_yaml(path, where)
    if not isinstance(content, dict) or "extends" not in content:
        return content
    name = str(content.pop("extends"))
    if Path(name).name != name:
        raise UserError(f"{where or path}: extends must name a yaml beside it, got {name!r}")
    base = read_yaml(path.with_name(f"{name}.yaml"))
    if not isinstance(base, dict) or "extends" in base:
        raise UserError(f"{where or path}: extends must name a yaml beside it that extends none itself")
    return base | content


def model_label(section: Mapping[str, Any]) -> str:
    """The name under which a ``model`` section's model stands in records: its own, else that of its folder."""
    return str(section["name"] or Path(str(section["path"])).expanduser().resolve().name)


def method_section(name: str, options: dict[str, Any] | None = None, family: str = FAMILIES[0]) -> dict[str, Any]:
    """conf/method/NAME.yaml with some options changed, for models of a ``family``.

    Raises UserError for an unknown method or option.
    """
    if name not in names("method"):
        raise UserError(f"there is no method {name!r}: {nearest(name, names('method'))}")
    section = of_family(copy.deepcopy(_method_yaml(conf_dir() / "method" / f"{name}.yaml")), family)
    for option in options or {}:
        if option not in section:
            own = sorted(key for key in section if key not in ("_target_", "name", "published"))
            raise UserError(f"{name} has no option {option!r}: {nearest(option, own)}")
    return _with_parts(section | (options or {}), family)


@cache
def _method_yaml(path: Path) -> dict[str, Any]:
    """The file's content, read once: a sweep asks for it a hundred times."""
    loaded = read_yaml(path)
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def of_family(section: dict[str, Any], family: str, given: Collection[str] = ()) -> dict[str, Any]:
    """A method's section with the values that stand below ``families`` for this family, but for options in ``given``,
    which were asked for."""
    found = {key: value for key, value in section.items() if key != "families"}
    own = (section.get("families") or {}).get(family, {})
    return _with_parts(found | {key: value for key, value in own.items() if key not in given}, family)


def _with_parts(section: dict[str, Any], family: str) -> dict[str, Any]:
    """The section, where it has ``parts``, with all options of each: those of the part's own yaml where none is given.

    Raises UserError for a part that names no method, or an option that its method has not.
    """
    if not isinstance(section.get("parts"), list):
        return section
    return section | {"parts": [filled_part(part, family) for part in section["parts"]]}


def filled_part(part: Any, family: str = FAMILIES[0]) -> dict[str, Any]:
    """A part of a combined method, with all options and its rate. Raises UserError as ``_with_parts`` says."""
    if not isinstance(part, dict) or not isinstance(part.get("method"), str):
        raise UserError(f"method.parts: a part is {{method: NAME, ...}} with that method's options, got {part!r}")
    options = {key: value for key, value in part.items() if key not in ("method", "rate")}
    if shared := sorted(set(options) & set(COMMON)):
        raise UserError(
            f"method.parts: {part['method']} has {shared[0]}; a part takes the run's learning rate, times rate=FACTOR"
        )
    full = method_section(part["method"], options, family)
    if "parts" in full:
        raise UserError(f"method.parts: {part['method']} has parts itself: name those here")
    own = {key: value for key, value in full.items() if key not in COMMON}
    return {"method": part["method"], "rate": part.get("rate", 1.0), **own}


def changed_options(section: dict[str, Any]) -> dict[str, Any]:
    """Of a method's section the options that are not the defaults, of whichever family has most of them as defaults."""
    changes = []
    for family in FAMILIES:
        usual = method_section(section["name"], family=family)
        changes.append({k: v for k, v in sorted(section.items()) if k not in COMMON and usual.get(k) != v})
    return min(changes, key=len)


def family_of(model: dict[str, Any]) -> str:
    """The family of a ``model`` section's model, read off without loading it: what the section says, else what the
    config.json of its folder says, else Mamba-1. Raises UserError for a family that there is not."""
    if model.get("family") is not None:
        if model["family"] not in FAMILIES:
            raise UserError(f"model.family must be one of {', '.join(FAMILIES)}, got {model['family']!r}")
        return str(model["family"])
    if model.get("source") == "folder" and isinstance(model.get("path"), str):
        try:
            content = json.loads((Path(model["path"]).expanduser() / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # whoever loads it says what is wrong
            content = None
        return family_in(content)
    return FAMILIES[0]


def family_in(content: Any) -> str:
    """The family that a checkpoint's config.json is of, in the original layout or transformers'."""
    if not isinstance(content, dict):
        return FAMILIES[0]
    if "model_type" in content:
        return "mamba2" if content["model_type"] == "mamba2" else "mamba"
    ssm = content.get("ssm_cfg")
    return "mamba2" if isinstance(ssm, dict) and ssm.get("layer") == "Mamba2" else "mamba"
