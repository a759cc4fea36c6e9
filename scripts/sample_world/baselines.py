"""What needs no model: the plain answers that a trained one must beat, read off prompts and training targets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from ssm_tune.tasks.base import SEPARATOR, Example

Baseline = Callable[[Sequence[Example], Sequence[Example]], list[str]]


def majority(train: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """The commonest target of train; of equally common ones the smallest."""
    counts = Counter(example.target for example in train)
    answer = min(counts, key=lambda target: (-counts[target], target))
    return [answer] * len(examples)


def first_turn(train: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """What the first speaker of a dialogue says."""
    lines = [example.prompt.removesuffix(SEPARATOR).split("\n")[0] for example in examples]
    return [line.partition(": ")[2] for line in lines]


def copied(train: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """The prompt itself: DART's triples."""
    return [example.prompt.removesuffix(SEPARATOR) for example in examples]


def commonest_query(train: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """Train's commonest shape of query, about each prompt's first table: its second column, and so on in order."""
    shape = Counter(_shape(example) for example in train).most_common(1)[0][0]
    answers = []
    for example in examples:
        (table, *columns), *_ = _tables(example)
        answer = shape.replace("TABLE", table)
        for column in [*columns[1:], *columns]:
            answer = answer.replace("COLUMN", column, 1)
        answers.append(answer)
    return answers


def _shape(example: Example) -> str:
    """The query with its tables and columns masked."""
    query = example.target
    tables = _tables(example)
    for mask, names in (
        ("TABLE", {table for table, *_ in tables}),
        ("COLUMN", {column for _, *columns in tables for column in columns}),
    ):
        query = re.sub(rf"\b({'|'.join(map(re.escape, names))})\b(?!')", mask, query)
    return query


def _tables(example: Example) -> list[list[str]]:
    """[name, column, column, ...] of each table in the prompt's schema."""
    schema = example.prompt.removesuffix(SEPARATOR).rpartition("Schema: ")[2].strip()
    tables = []
    for text in schema.split(" | "):
        name, _, columns = text.partition(": ")
        items = [item.strip() for item in columns.partition("foreign:")[0].split(" ,  ")]
        tables.append([name, *(item.rpartition(" ")[0] for item in items if item)])
    return tables


BASELINES: dict[str, tuple[str, Baseline]] = {
    "dart": ("the triples", copied),
    "samsum": ("the first turn", first_turn),
    "spider": ("the commonest query shape", commonest_query),
}
"""By task: what it is called, and how it is made. All other tasks take the majority class."""


def baseline(task: str) -> tuple[str, Baseline]:
    """The name of a task's plain answer, and the function from (train, examples) to answers."""
    return BASELINES.get(task, ("the majority class", majority))
