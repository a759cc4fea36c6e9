"""A table's rows: methods with their options, as the plan names them, as its sweep has them, or all that there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ssm_tune.reporting.plan_parts import listed, section

GROUPS = {
    "full": ("full",),
    "parameter-based": ("lora", "bitfit", "additional_scan"),
    "prompt-based": ("prompt", "prefix"),
    "state-based": ("initial_state", "state_offset", "state_offset_y"),
}
"""The methods of the paper, grouped and ordered as there."""
PAPER = "paper"
"""What stands for these as rows."""
OTHERS = "others"
"""The group of methods that the paper does not have."""
ROW_KEYS = ("method", "options", "overrides", "label")


@dataclass(frozen=True)
class MethodRow:
    """A method with all of its ``options``, for each family of models, which may have defaults of their own.

    overrides: as of a column, for rows that differ in more than options.
    """

    label: str
    method: str
    group: str
    options: tuple[Mapping[str, Any], ...]
    changed: Mapping[str, Any]
    """those of ``options`` that are not the defaults"""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    """those of ``options`` that the plan names, defaults too"""


def rows(given: Any, sweep: str | None, model: Any) -> list[MethodRow]:
    """The rows of a plan. given: its ``rows``, groups of methods or ``PAPER``.

    Where it has none they are those of the sweep that fills the table, if that lists its methods: of these what goes
    with ``model``; else every method.

    Raises ValueError for what is invalid, UserError for an unknown method or option.
    """
    from ssm_tune.config.groups import names

    placed = {method: group for group, methods in GROUPS.items() for method in methods}
    if given == PAPER:
        return [_row({"method": method}, group) for method, group in placed.items()]
    if given is not None:
        parts = section(given, None, "rows").items()
        return [_row(part, group) for group, listed_parts in parts for part in listed(listed_parts, f"rows.{group}")]
    found = list(_of_sweep(sweep, model)) if sweep is not None else []
    found = found or [{"method": name} for name in sorted(names("method"), key=[*placed, *names("method")].index)]
    made = [_row(part, placed.get(part["method"], OTHERS)) for part in found]
    return sorted(made, key=lambda row: [*GROUPS, OTHERS].index(row.group))


@cache
def sweep_part(name: str, key: str) -> list[Any]:
    """A list of conf/sweep/NAME.yaml; empty where it has none of that key."""
    from ssm_tune.config.groups import conf_dir, read_plan

    content = read_plan(conf_dir() / "sweep" / f"{name}.yaml", f"conf/sweep/{name}.yaml")
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, list) else []


def _of_sweep(name: str, model: Any) -> Iterator[dict[str, Any]]:
    """Each method of conf/sweep/NAME.yaml's ``methods`` with each of its options, but for those of another model."""
    from ssm_tune.config.groups import names

    for part in sweep_part(name, "methods"):
        part = section(part, None, f"a method of the sweep {name}")
        if part.get("model.name", model) != model:
            continue
        kept = {key: values for key, values in part.items() if key == "method" or key.startswith("method.")}
        lists = [
            names("method") if values == "*" else values if isinstance(values, list) else [values]
            for values in kept.values()
        ]
        for combination in itertools.product(*lists):
            options = {key.partition(".")[2]: value for key, value in zip(kept, combination, strict=True)}
            yield {"method": options.pop(""), "options": options}


def _row(part: Any, group: str) -> MethodRow:
    from ssm_tune.config.groups import COMMON, FAMILIES, method_section

    part = section({"method": part} if isinstance(part, str) else part, ROW_KEYS, "a row")
    method, options = part.get("method"), part.get("options") or {}
    if not isinstance(method, str):
        raise ValueError(f"a row has method: NAME, got {part!r}")
    sections = [method_section(method, options, family) for family in FAMILIES]
    kept = tuple({key: value for key, value in one.items() if key not in COMMON} for one in sections)
    changed = {key: value for key, value in options.items() if value != method_section(method)[key]}
    overrides = part.get("overrides") or {}
    shown = {**changed, **{key.rpartition(".")[2]: value for key, value in overrides.items()}}
    label = part.get("label") or " ".join([method, *(f"{key}={word(value)}" for key, value in shown.items())])
    return MethodRow(str(label), method, group, kept, changed, overrides, options)


def word(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "")
