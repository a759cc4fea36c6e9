"""What a planned table lacks, as the command lines that would make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssm_tune.config.overrides import on_command_line, shell_word
from ssm_tune.records.schema import Record
from ssm_tune.reporting.table_rows import MethodRow, sweep_part
from ssm_tune.reporting.table_spec import Column, TableSpec

Picked = Mapping[tuple[str, str], Sequence[Sequence[Record]]]
"""For a row's label and a column's name, the records of each of the column's tasks."""


def commands(spec: TableSpec, picked: Picked) -> tuple[str, ...]:
    """The fewest lines that ask for exactly the missing runs: methods, then tasks, that lack the same share one."""
    methods: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for row in spec.rows:
        for column in spec.columns:
            for task, part in zip(column.tasks, picked[row.label, column.name], strict=True):
                there = {record["cell"]["seed"] for record in part}
                if seeds := [seed for seed in spec.seeds if seed not in there]:
                    methods.setdefault((task, _rest(spec, row, column, seeds)), []).append(row.method)
    tasks: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (task, rest), names in methods.items():
        tasks.setdefault((",".join(dict.fromkeys(names)), rest), []).append(task)
    return tuple(
        _command([f"method={names}", f"task={','.join(there)}", *rest]) for (names, rest), there in tasks.items()
    )


def repeating(spec: TableSpec, row: MethodRow, column: Column, seeds: Sequence[int]) -> tuple[str, ...]:
    """A line for each of the column's tasks, which runs that row there with these seeds, although it is done."""
    rest = _rest(spec, row, column, seeds)
    return tuple(_command([f"method={row.method}", f"task={task}", *rest, "force=true"]) for task in column.tasks)


def _command(words: Sequence[str]) -> str:
    """The line for a shell."""
    many = any("," in word or "+sweep=" in word for word in words)
    return " ".join(["ssm-tune", *(["-m"] if many else []), *map(shell_word, words)])


def _rest(spec: TableSpec, row: MethodRow, column: Column, seeds: Sequence[int]) -> tuple[str, ...]:
    """The settings beside method and task."""
    options = row.changed if spec.sweep is None else row.asked  # a sweep may have a default beside others
    words = [f"method.{name}={on_command_line(value)}" for name, value in options.items()]
    words += [f"{name}={on_command_line(value)}" for name, value in row.overrides.items()]
    if spec.sweep is not None:  # which knows the rest
        models = [f"model.name={column.model}"] if sweep_part(spec.sweep, "models") else []
        return (f"+sweep={spec.sweep}", *models, *words, f"seed={','.join(map(str, seeds))}")
    words += [f"model={column.model}", f"data={column.data}"]
    words += [f"protocol={spec.protocol}"] if spec.protocol != "auto" else []
    words += [f"{name}={on_command_line(value)}" for name, value in column.overrides.items()]
    return (*words, f"seed={','.join(map(str, seeds))}")
