"""``ssm-tune score --task``: score predictions of any origin against references in files, without a run or torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.config.compose import compose
from ssm_tune.config.groups import benchmarks, names
from ssm_tune.metrics.sql import (
    LEVELS,
    Database,
    Interrupted,
    find_databases,
    find_schema,
    hardness_counts,
    read_schemas,
)
from ssm_tune.tasks.base import Example, Task, load_task
from ssm_tune.tasks.files import read_lines
from ssm_tune.tasks.glue import Glue
from ssm_tune.tasks.spider import Spider
from ssm_tune.utils.errors import UserError, nearest
from ssm_tune.utils.files import read_jsonl, user_path
from ssm_tune.utils.text import as_decoded

INTERRUPTED = 130
"""The exit status after Ctrl-C, as a shell gives it."""


@dataclass(frozen=True)
class Row:
    """A prediction, or an example's references. place: where it stands; id: None in files without ids."""

    place: str
    id: str | None
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """counts: examples by hardness, for Spider alone."""

    task: str
    n: int
    values: dict[str, float]
    signatures: dict[str, str]
    counts: dict[str, int] | None = None


def main(options: argparse.Namespace) -> int:
    """Print every metric with its signature; 0. Raises UserError for files that are invalid or do not fit together."""
    if options.task not in names("task"):
        raise UserError(f"there is no task {options.task!r}: {nearest(options.task, names('task'))}")
    if options.predictions is None:
        raise UserError("score --task needs --predictions FILE")
    # no data are read; those of one's own need a path all the same
    data = "data=sample" if options.task in benchmarks() else "data.path=none"
    task = load_task(compose(["method=full", f"task={options.task}", data, *options.words]).task)
    if isinstance(task, Spider):
        if options.gold is None or options.data_path is None or options.references:
            raise UserError(f"{task.name} takes --gold FILE (query, tab, db_id) and --data-path DIR (with tables.json)")
        outputs, examples = _spider(options.predictions, options.gold, user_path(options.data_path))
    else:
        if not options.references or options.gold is not None:
            raise UserError(f"{task.name} is scored with --references FILE; --gold is Spider's")
        if options.data_path is not None:
            raise UserError(f"--data-path is read for Spider's files alone; {task.name} is scored without")
        outputs, examples = _texts(task, options.predictions, options.references)
    task.check_scoring(examples)
    status = 0
    try:
        values = task.score(outputs, examples).values
    except Interrupted as interrupt:
        done, status, values = interrupt.places, INTERRUPTED, interrupt.values
        print(f"interrupted: the scores of the {len(done)} of {len(examples)} examples that were done", file=sys.stderr)
        examples = [examples[place] for place in done]
    result = result_of(task, examples, values)
    if options.json:
        print(json.dumps({name: value for name, value in vars(result).items() if value is not None}, indent=2))
    else:
        print_result(result)
    return status


def result_of(task: Task, examples: Sequence[Example], values: dict[str, float]) -> Result:
    """The scores of these examples, with what tells how they were made."""
    counts = None
    if isinstance(task, Spider):
        counts = hardness_counts([example.references[0] for example in examples], [one.context for one in examples])
    return Result(task.name, len(examples), values, task.signatures(examples), counts)


def _texts(task: Task, predictions: Path, references: Sequence[Path]) -> tuple[list[str], list[Example]]:
    """Outputs and examples as a run has them: texts as the protocol's decoding leaves them, labels untouched."""
    outputs, examples = [], []
    for number, (row, its) in enumerate(_paired(_predictions(predictions), _references(references))):
        if isinstance(task, Glue) and (len(its.texts) != 1 or its.texts[0] not in task.digits):
            expected = ", ".join(task.digits)
            raise UserError(f"{its.place}: the label is {' and '.join(its.texts)!r}, expected one of {expected}")
        # score() does the same to the references
        outputs.append(row.texts[0] if task.mode == "classify" else as_decoded(row.texts[0]))
        examples.append(Example(its.id or str(number), "", its.texts[0], its.texts))
    return outputs, examples


def _predictions(path: Path) -> list[Row]:
    """One a line; or jsonl with "output" (or "prediction"), and "id" where the references have it."""
    if not _is_jsonl(path):
        return [Row(f"{path} line {number}", None, (line,)) for number, line in enumerate(read_lines(path), start=1)]
    rows = []
    for number, row in enumerate(read_jsonl(path), start=1):
        place = f"{path} line {number}"
        output = row.get("output", row.get("prediction"))
        if not isinstance(output, str):
            raise UserError(f'{place}: no text under "output" or "prediction"')
        rows.append(Row(place, _id(row, place), (output,)))
    return rows


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _references(paths: Sequence[Path]) -> list[Row]:
    """One a line, in one file or several of equal length (where an empty line is no reference); or one jsonl file."""
    if any(map(_is_jsonl, paths)):
        if len(paths) > 1:
            raise UserError("--references: one .jsonl file, or several text files")
        return list(_reference_rows(paths[0]))
    columns = [read_lines(path) for path in paths]
    for path, lines in zip(paths, columns, strict=True):
        if len(lines) != len(columns[0]):
            raise UserError(f"{path} has {len(lines)} lines, {paths[0]} has {len(columns[0])}")
    rows = []
    for number, texts in enumerate(zip(*columns, strict=True), start=1):
        given = tuple(text for text in texts if text.strip())
        if not given:
            raise UserError(f"{paths[0]} line {number}: the reference is empty")
        rows.append(Row(f"{paths[0]} line {number}", None, given))
    return rows


def _reference_rows(path: Path) -> Iterator[Row]:
    for number, row in enumerate(read_jsonl(path), start=1):
        place = f"{path} line {number}"
        given = row.get("references")
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise UserError(f'{place}: no list of texts under "references"')
        if not given or not all(text.strip() for text in given):
            raise UserError(f"{place}: {'there are no references' if not given else 'a reference is empty'}")
        yield Row(place, _id(row, place), tuple(given))


def _id(row: dict[str, Any], place: str) -> str | None:
    name = row.get("id")
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise UserError(f"{place}: the id is {name!r}, expected a text or a whole number")
    return None if name is None else str(name)


def _paired(predictions: Sequence[Row], references: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Each example's prediction and references, in the order of the references: by id where there are ids."""
    for rows, what in ((predictions, "prediction"), (references, "reference")):
        if not rows:
            raise UserError(f"there is not one {what}: the file is empty")
        if len({row.id is None for row in rows}) == 2:
            lacking = next(row for row in rows if row.id is None)
            raise UserError(f"{lacking.place}: no id, while other lines have one")
    if (predictions[0].id is None) != (references[0].id is None):
        which = "predictions" if references[0].id is None else "references"
        raise UserError(f"the {which} have ids and the other file has none: give both ids, or neither")
    if references[0].id is None:
        if len(predictions) != len(references):
            raise UserError(f"there are {len(predictions)} predictions for {len(references)} references")
        return list(zip(predictions, references, strict=True))
    by_id, wanted = _by_id(predictions), _by_id(references)
    for name, row in by_id.items():
        if name not in wanted:
            raise UserError(f"{row.place}: the references have no id {name!r}")
    for name, row in wanted.items():
        if name not in by_id:
            raise UserError(f"{row.place}: no prediction for id {name!r} ({len(wanted) - len(by_id)} missing)")
    return [(by_id[name], row) for name, row in wanted.items()]


def _by_id(rows: Sequence[Row]) -> dict[str | None, Row]:
    found: dict[str | None, Row] = {}
    for row in rows:
        if row.id in found:
            raise UserError(f"{row.place}: the id {row.id!r} stands there twice, first at {found[row.id].place}")
        found[row.id] = row
    return found


def _spider(predictions: Path, gold: Path, folder: Path) -> tuple[list[str], list[Example]]:
    """Queries, one a line or jsonl, and the official gold file: a query, a tab and the database's name a line.

    Ids in the predictions are the numbers of the gold file's lines, counted from 0, as runs on dev.json have them.
    """
    schemas = read_schemas(folder / "tables.json")
    there = folder / "database"
    answers = _predictions(predictions)
    numbered = any(row.id is not None for row in answers)
    golds = list(_golds(gold))
    names_used = list(dict.fromkeys(name for _, name in golds))
    found = {name: find_schema(schemas, name) for name in names_used}
    paths = find_databases(there, names_used) if there.is_dir() else {}
    known = {name: Database(name, schema, paths.get(name)) for name, schema in found.items()}
    examples = [
        Example(str(number), "", query, (query,), group=name, context=known[name])
        for number, (query, name) in enumerate(golds, start=1)
    ]
    rows = [
        Row(f"{gold} line {number}", str(number - 1) if numbered else None, (query,))
        for number, (query, _) in enumerate(golds, start=1)
    ]
    texts = [row.texts[0] for row, _ in _paired(answers, rows)]
    # of a line the official script takes what stands before a tab
    return texts if _is_jsonl(predictions) else [text.split("\t")[0] for text in texts], examples


def _golds(path: Path) -> Iterator[tuple[str, str]]:
    """(query, db_id) of each line. Raises UserError."""
    lines = read_lines(path)
    while lines and not lines[-1].strip():  # as editors leave at the end
        lines.pop()
    for number, line in enumerate(lines, start=1):
        query, tab, name = line.rpartition("\t")
        if not tab or not query.strip() or not name.strip():
            raise UserError(f"{path} line {number}: expected a query, a tab and a db_id")
        yield query.strip(), name.strip()


def print_result(result: Result) -> None:
    print(f"{result.task}: {result.n:,} examples")
    if result.counts is None:
        width = max(len(name) for name in result.values)
        for name, value in result.values.items():
            print(f"{name:<{width}}  {value:.8f}")
    else:
        columns = ["", *LEVELS]
        print(f"{'':<20}" + "".join(f"{level or 'all':>12}" for level in columns))
        print(f"{'examples':<20}{result.n:>12}" + "".join(f"{result.counts[level]:>12}" for level in LEVELS))
        for name in result.signatures:
            found = [result.values.get(f"{name}_{level}" if level else name) for level in columns]
            print(f"{name:<20}" + "".join(f"{'-' if value is None else format(value, '.6f'):>12}" for value in found))
        if "execution" not in result.values:
            print("no folder database/ beside tables.json: nothing was executed")
    for name, line in result.signatures.items():
        print(f"{name}: {line}")
