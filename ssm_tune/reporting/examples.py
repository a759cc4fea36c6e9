"""A run's predictions example by example: input, references, output, the base model's, and how each scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_tune.metrics.names import heading
from ssm_tune.records.record import rows_path
from ssm_tune.records.schema import Record
from ssm_tune.tasks.base import SEPARATOR, Example
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl

RIGHT_OR_WRONG = ("correct", "execution", "official_execution", "exact", "exact_match")
"""Statistics of an example that are 1 where the answer is right and 0 where it is wrong."""


@dataclass(frozen=True)
class ShownExample:
    """One prediction. input and references: None and empty where the data are not at hand.

    measure, score: what the example itself scored (a fraction), None where its metric is one of the corpus alone.
    right: whether the answer is right, None where answers are better or worse and not right or wrong.
    """

    id: str
    input: str | None
    references: tuple[str, ...]
    output: str
    base: str | None
    measure: str | None
    score: float | None
    right: bool | None

    @property
    def mark(self) -> str:
        """The score in words."""
        if self.right is not None:
            return "right" if self.right else "wrong"
        return "" if self.score is None else f"{heading(self.measure or '')} {100 * self.score:.1f}"


def examples_of(
    folder: Path, record: Record, known: Mapping[str, Example], last: bool = False
) -> tuple[ShownExample, ...]:
    """The examples of the reported split in the order of the predictions. known: those of the data, by id.

    last: as the last epoch answered, not the best one. Raises UserError for predictions that are missing or damaged.
    """
    best, end = record["metrics"]["best"], record["metrics"]["last"]
    name = "predictions-last" if last and end and (not best or best["step"] != end["step"]) else "predictions"
    frozen = rows_path(folder, "predictions-frozen")
    base = {row.get("id"): row.get("output") for row in read_jsonl(frozen)} if frozen.exists() else {}
    path = rows_path(folder, name)
    return tuple(_example(row, record, known, base, path) for row in read_jsonl(path))


def lowest_first(examples: Iterable[ShownExample]) -> list[ShownExample]:
    """Those that are wrong; of answers that are better or worse all that are not perfect, the worst first."""
    missed = [one for one in examples if one.right is False or (one.right is None and (one.score or 0.0) < 1.0)]
    return sorted(missed, key=lambda one: one.score or 0.0)


def _example(
    row: dict[str, Any], record: Record, known: Mapping[str, Example], base: Mapping[Any, Any], path: Path
) -> ShownExample:
    name, output, statistics = row.get("id"), row.get("output"), row.get("statistics", {})
    if not isinstance(name, str) or not isinstance(output, str) or not isinstance(statistics, dict):
        raise UserError(f"{path}: a prediction lacks its id, output or statistics")
    example, before = known.get(name), base.get(name)
    measure, score = _score(statistics, record)
    return ShownExample(
        id=name,
        input=None if example is None else example.prompt.strip().removesuffix(SEPARATOR).rstrip(),
        references=() if example is None else tuple(example.references),
        output=output,
        base=before if isinstance(before, str) else None,
        measure=measure,
        score=score,
        right=None if measure not in RIGHT_OR_WRONG else score == 1.0,
    )


def _score(statistics: dict[str, Any], record: Record) -> tuple[str | None, float | None]:
    """What the example scored: the task's leading metric, or what stands for it in one example."""
    for name in ("correct", record["primary_metric"], *record["headline"]):
        value = statistics.get(name)
        if isinstance(value, int | float):
            return name, float(value)
    return None, None
