"""The groups of yamls below conf/: where they are, what choices each has, and what a method's yaml holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssm_tune.utils.errors import UserError, nearest


def conf_dir() -> Path:
    """The folder of yamls: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def names(group: str) -> list[str]:
    """The choices of a group of yamls, as ``method=NAME`` takes them."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def benchmarks() -> list[str]:
    """The tasks that have published data and a part in the sample world: all but those for data of one's own."""
    return [name for name in names("task") if "data" not in OmegaConf.load(conf_dir() / "task" / f"{name}.yaml")]


def model_label(section: Mapping[str, Any]) -> str:
    """The name under which a ``model`` section's model stands in records: its own, else that of its folder."""
    return str(section["name"] or Path(str(section["path"])).expanduser().resolve().name)


def method_section(name: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """conf/method/NAME.yaml with some options changed. Raises UserError for an unknown method or option."""
    if name not in names("method"):
        raise UserError(f"there is no method {name!r}: {nearest(name, names('method'))}")
    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / f"{name}.yaml"))
    assert isinstance(loaded, dict)
    section = {str(key): value for key, value in loaded.items()}
    for option in options or {}:
        if option not in section:
            raise UserError(f"{name} has no option {option!r}: {nearest(option, sorted(section))}")
    return section | (options or {})
