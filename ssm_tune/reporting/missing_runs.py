"""What a planned table lacks, as the command lines that would make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssm_tune.records.schema import Record
from ssm_tune.reporting.table_spec import Column, MethodRow, TableSpec, word

Picked = Mapping[tuple[str, str], Sequence[Sequence[Record]]]
"""For a row's label and a column's name, the records of each of the column's tasks."""


def commands(spec: TableSpec, picked: Picked) -> tuple[str, ...]:
    """The fewest lines that ask for exactly the missing cells: methods, then tasks, that lack the same share one."""
    methods: dict[tuple[str, str], list[str]] = {}
    for row in spec.rows:
        for column in spec.columns:
            for task, part in zip(column.tasks, picked[row.label, column.name], strict=True):
                there = {record["cell"]["seed"] for record in part}
                if seeds := [seed for seed in spec.seeds if seed not in there]:
                    methods.setdefault((task, _rest(spec, row, column, seeds)), []).append(row.method)
    tasks: dict[tuple[str, str], list[str]] = {}
    for (task, rest), names in methods.items():
        tasks.setdefault((",".join(dict.fromkeys(names)), rest), []).append(task)
    return tuple(_command(f"method={names} task={','.join(tasks)} {rest}") for (names, rest), tasks in tasks.items())


def _command(words: str) -> str:
    return f"ssm-tune {'-m ' if ',' in words or '+sweep=' in words else ''}{words}"


def _rest(spec: TableSpec, row: MethodRow, column: Column, seeds: Sequence[int]) -> str:
    """The settings beside method and task."""
    options = row.changed if spec.sweep is None else row.asked  # a sweep may have a default beside others
    words = [f"method.{name}={word(value)}" for name, value in options.items()]
    words += [f"{name}={word(value)}" for name, value in row.overrides.items()]
    if spec.sweep is not None:  # which knows the rest
        return " ".join([f"+sweep={spec.sweep}", *words, f"seed={','.join(map(str, seeds))}"])
    words += [f"model={column.model}", f"data={column.data}"]
    words += [f"protocol={spec.protocol}"] if spec.protocol != "auto" else []
    words += [f"{name}={word(value)}" for name, value in column.overrides.items()]
    return " ".join([*words, f"seed={','.join(map(str, seeds))}"])
