"""Reading a yaml file from outside: one line for whatever is wrong with it, and a bound on what it expands to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_bytes

MOST_NODES = 200_000
"""Names and values that a file may hold, what its aliases repeat included."""
DEEPEST = 100


def read_yaml(path: Path, where: str | None = None) -> Any:
    """The plain contents of a yaml file, with ``${...}`` resolved within it. where: how errors name the file.

    Raises UserError where it is missing, not UTF-8, not yaml, or expands to more than MOST_NODES.
    """
    from omegaconf import OmegaConf  # which takes a tenth of a second: --help reads no yaml

    where = where or str(path)
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return {}
        _expanded(root, {}, 0)
        return OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except UserError as error:
        raise UserError(f"{where} {error}") from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply") from error
    except Exception as error:  # the errors of yaml and of OmegaConf share no base
        raise UserError(f"{where} cannot be read, it is not yaml: {' '.join(str(error).split())[:200]}") from error


def _expanded(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many nodes the node stands for, each alias counted as often as it stands there."""
    if id(node) in known:
        return known[id(node)]
    if depth > DEEPEST:
        raise UserError("is nested too deeply, or an alias stands within itself")
    total = 1
    if isinstance(node, yaml.MappingNode):
        total += sum(_expanded(part, known, depth + 1) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_expanded(part, known, depth + 1) for part in node.value)
    if total > MOST_NODES:
        raise UserError(f"holds more than {MOST_NODES:,} names and values, what its aliases repeat included")
    known[id(node)] = total
    return total
