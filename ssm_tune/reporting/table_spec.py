"""What a table shows: rows of methods, columns of tasks. A table is a small yaml, conf/table/NAME.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssm_tune.config.protocol import resolved_protocol
from ssm_tune.reporting.plan_parts import listed, section
from ssm_tune.reporting.table_rows import MethodRow, rows
from ssm_tune.utils.errors import UserError

QUANTITIES = {
    "trainable": "trainable parameters",
    "share": "trainable (%)",
    "train_seconds": "training (s)",
    "seconds": "whole run (s)",
    "tokens_per_second": "training (tokens/s)",
    "memory": "peak memory (GiB)",
    "adapter": "adapter (MB)",
    "generated_per_second": "generated (tokens/s)",
    "search_trials": "search (trials)",
    "search_seconds": "search (s)",
}
"""What a column can show beside metrics, with its heading."""
SUMMARY = {"score": "mean score", "rank": "rank", **QUANTITIES}
"""What can stand once a row, over its columns, with its heading."""
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
    "summary",
    "set_apart",
)
LAST = "last"
"""What a column can show: the leading metric after the last epoch, whichever epoch was the best."""
COLUMN_KEYS = ("task", "tasks", "average", "label", "model", "data", "overrides", "show")


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
class TableSpec:
    """A table's plan. protocol: paper, standard, or auto, which is paper for published data alone.

    sweep: the sweep file that fills the table, where its runs need more than the columns say.
    compare: the label of the row that every other is compared with, example by example, in a table of its own.
    summary: what stands once a row, over its columns (SUMMARY). set_apart: whether columns in which no method beats an
    answer without learning stand apart, and count in no rank and no summary.
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
    summary: tuple[str, ...] = ()
    set_apart: bool = False

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

    plan = section(plan, KEYS, "the table")
    protocol = plan.get("protocol", "auto")
    if protocol not in CHOICES["protocol"]:
        raise ValueError(f"protocol must be one of {', '.join(CHOICES['protocol'])}, got {protocol!r}")
    seeds = plan.get("seeds", [42])
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise ValueError(f"seeds must be whole numbers, got {seeds!r}")
    columns = tuple(_column(part, plan) for part in listed(plan.get("columns"), "columns"))
    if len({column.name for column in columns}) < len(columns):
        raise ValueError(
            "two columns have one name; a column of several tasks is named by average: NAME, one of one by label: NAME"
        )
    sweep, compare = plan.get("sweep"), plan.get("compare")
    if sweep is not None:
        _known("sweep", [sweep])
    methods = tuple(rows(plan.get("rows"), sweep, plan.get("model")))
    if len({row.label for row in methods}) < len(methods):
        raise ValueError("two rows have one label")
    if compare is not None and compare not in [row.label for row in methods]:
        raise ValueError(f"compare names no row: {compare!r}")
    summary = plan.get("summary", [])
    if not isinstance(summary, list) or any(what not in SUMMARY for what in summary):
        raise ValueError(f"summary must be a list of {', '.join(SUMMARY)}, got {summary!r}")
    ranks, title = bool(plan.get("average_rank", False)), str(plan.get("title", name))
    apart = bool(plan.get("set_apart", False))
    return TableSpec(
        name, title, protocol, tuple(seeds), columns, methods, ranks, sweep, compare, tuple(summary), apart
    )


def _column(part: Any, plan: dict[str, Any]) -> Column:
    part = section(part, COLUMN_KEYS, "a column")
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


def _known(group: str, given: Sequence[str]) -> None:
    from ssm_tune.config.groups import names
    from ssm_tune.utils.errors import nearest

    for name in given:
        if name not in names(group):
            raise ValueError(f"there is no {group} {name!r}: {nearest(str(name), names(group))}")
