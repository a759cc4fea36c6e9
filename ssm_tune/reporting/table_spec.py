"""What a table shows: rows of methods, columns of tasks. A table is a small yaml, conf/table/NAME.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssm_tune.config.protocol import resolved_protocol
from ssm_tune.utils.errors import UserError

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
QUANTITIES = {
    "trainable": "trainable parameters",
    "share": "trainable (%)",
    "train_seconds": "training (s)",
    "seconds": "whole run (s)",
    "tokens_per_second": "training (tokens/s)",
    "memory": "peak memory (GiB)",
}
"""What a column can show beside metrics, with its heading."""
KEYS = (
    "title",
    "protocol",
    "seeds",
    "model",
    "data",
    "overrides",
    "columns",
    "rows",
    "average_rank",
    "sweep",
    "compare",
)
LAST = "last"
"""What a column can show: the leading metric after the last epoch, whichever epoch was the best."""
COLUMN_KEYS = ("task", "tasks", "average", "label", "model", "data", "overrides", "show")
ROW_KEYS = ("method", "options", "overrides", "label")


@dataclass(frozen=True)
class Column:
    """One task, or several whose scores are averaged under a ``name``; by the words of the command line.

    show: metrics and QUANTITIES; empty: the metric that the records lead with.
    overrides: further settings that the records must have, such as train.epochs.
    """

    name: str
    tasks: tuple[str, ...]
    model: str
    data: str
    show: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def data_name(self, task: str) -> str:
        """The data's name in records: a published data set goes by its task's, which no stand-in may take."""
        return task if self.data == "hub" else self.data


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


@dataclass(frozen=True)
class TableSpec:
    """A table's plan. protocol: paper, standard, or auto, which is paper for published data alone.

    sweep: the sweep file that fills the table, where its runs need more than the columns say.
    compare: the label of the row that every other is compared with, example by example, in a table of its own.
    """

    name: str
    title: str
    protocol: str
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]
    rows: tuple[MethodRow, ...]
    average_rank: bool
    sweep: str | None = None
    compare: str | None = None

    def protocol_of(self, column: Column) -> str:
        """The protocol of a column's runs; what is not on the hub is a stand-in."""
        return resolved_protocol(self.protocol, {"source": column.data, "check": "off"})


def table_names() -> list[str]:
    """The tables that conf/table plans."""
    from ssm_tune.config.groups import names

    return names("table")


def load_table_spec(name: str) -> TableSpec:
    """The plan ``conf/table/NAME.yaml``, or that of a yaml file given by its path.

    Raises:
        UserError: there is none of the name, or something in it is invalid.
    """
    from ssm_tune.config.groups import conf_dir, read_plan
    from ssm_tune.utils.errors import nearest

    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = conf_dir() / "table" / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"there is no table {name!r}: {nearest(name, table_names())}")
    try:
        return parse_table_spec(path.stem, read_plan(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def parse_table_spec(name: str, plan: Any) -> TableSpec:
    """A TableSpec from the plain contents of a yaml. Raises ValueError for what is invalid."""
    from ssm_tune.config.choices import CHOICES

    plan = _section(plan, KEYS, "the table")
    protocol = plan.get("protocol", "auto")
    if protocol not in CHOICES["protocol"]:
        raise ValueError(f"protocol must be one of {', '.join(CHOICES['protocol'])}, got {protocol!r}")
    seeds = plan.get("seeds", [42])
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise ValueError(f"seeds must be whole numbers, got {seeds!r}")
    columns = tuple(_column(part, plan) for part in _listed(plan.get("columns"), "columns"))
    if len({column.name for column in columns}) < len(columns):
        raise ValueError(
            "two columns have one name; a column of several tasks is named by average: NAME, one of one by label: NAME"
        )
    rows = tuple(_rows(plan.get("rows")))
    if len({row.label for row in rows}) < len(rows):
        raise ValueError("two rows have one label")
    sweep, compare = plan.get("sweep"), plan.get("compare")
    if sweep is not None:
        _known("sweep", [sweep])
    if compare is not None and compare not in [row.label for row in rows]:
        raise ValueError(f"compare names no row: {compare!r}")
    ranks, title = bool(plan.get("average_rank", False)), str(plan.get("title", name))
    return TableSpec(name, title, protocol, tuple(seeds), columns, rows, ranks, sweep, compare)


def _column(part: Any, plan: dict[str, Any]) -> Column:
    part = _section(part, COLUMN_KEYS, "a column")
    tasks = part.get("tasks") or ([part["task"]] if "task" in part else [])
    if not tasks or ("average" in part) != ("tasks" in part):
        raise ValueError(f"a column has task: NAME, or average: NAME with tasks: [...], got {part!r}")
    _known("task", tasks)
    model, data = part.get("model", plan.get("model")), part.get("data", plan.get("data", "hub"))
    if not isinstance(model, str):
        raise ValueError(f"the column {tasks[0]} has no model")
    overrides = {**(plan.get("overrides") or {}), **(part.get("overrides") or {})}
    name = str(part.get("average") or part.get("label") or tasks[0])
    return Column(name, tuple(tasks), model, data, tuple(part.get("show", ())), overrides)


def _rows(given: Any) -> list[MethodRow]:
    from ssm_tune.config.groups import names

    if given is None or given == PAPER:
        placed = {method for group in GROUPS.values() for method in group}
        others = () if given == PAPER else tuple(name for name in names("method") if name not in placed)
        groups = {**GROUPS, OTHERS: others}
        return [_row({"method": method}, group) for group, methods in groups.items() for method in methods]
    found = []
    for group, parts in _section(given, None, "rows").items():
        found += [_row(part, group) for part in _listed(parts, f"rows.{group}")]
    return found


def _row(part: Any, group: str) -> MethodRow:
    from ssm_tune.config.groups import COMMON, FAMILIES, method_section

    part = _section({"method": part} if isinstance(part, str) else part, ROW_KEYS, "a row")
    method, options = part.get("method"), part.get("options") or {}
    if not isinstance(method, str):
        raise ValueError(f"a row has method: NAME, got {part!r}")
    sections = [method_section(method, options, family) for family in FAMILIES]
    kept = tuple({key: value for key, value in section.items() if key not in COMMON} for section in sections)
    changed = {key: value for key, value in options.items() if value != method_section(method)[key]}
    overrides = part.get("overrides") or {}
    shown = {**changed, **{key.rpartition(".")[2]: value for key, value in overrides.items()}}
    label = part.get("label") or " ".join([method, *(f"{key}={word(value)}" for key, value in shown.items())])
    return MethodRow(str(label), method, group, kept, changed, overrides, options)


def _known(group: str, given: Sequence[str]) -> None:
    from ssm_tune.config.groups import names
    from ssm_tune.utils.errors import nearest

    for name in given:
        if name not in names(group):
            raise ValueError(f"there is no {group} {name!r}: {nearest(str(name), names(group))}")


def _section(part: Any, keys: Sequence[str] | None, what: str) -> dict[str, Any]:
    from ssm_tune.utils.errors import nearest

    if not isinstance(part, dict):
        raise ValueError(f"{what} must be a group of settings, got {part!r}")
    for key in part:
        if keys is not None and key not in keys:
            raise ValueError(f"{what} has no setting {key!r}: {nearest(str(key), list(keys))}")
    return {str(key): value for key, value in part.items()}


def _listed(parts: Any, what: str) -> list[Any]:
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"{what} must be a list that is not empty, got {parts!r}")
    return parts


def word(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "")
