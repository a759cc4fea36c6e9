"""What every task is: a source of examples, a choice of splits, and a way to score outputs."""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ssm_tune.errors import UserError
from ssm_tune.target import instantiate

SEPARATOR = "###"
"""Between the parts of a prompt and before the answer: plain text, encoded with what precedes it."""
END = "<|endoftext|>"
"""What an answer ends with, and the padding: token 0 of the tokenizers in use."""
CARVE_SEED = 123
"""Fixed, so that every run of every method selects on the same carved examples."""


@dataclass(frozen=True)
class Example:
    """One example as text. The model reads ``prefix`` + ``prompt`` (encoded apart) and learns ``target``."""

    id: str
    prompt: str
    target: str
    references: tuple[str, ...]
    prefix: str = ""


@dataclass(frozen=True)
class Dataset:
    """Splits of examples. ``name`` is the published name only for the published data; ``hash`` covers all texts."""

    name: str
    published: bool
    splits: dict[str, list[Example]]
    hash: str


@dataclass(frozen=True)
class Roles:
    """Which split trains, which picks the epoch, and which is reported."""

    train: str
    selection: str
    report: str

    @property
    def selected_on_report(self) -> bool:
        return self.selection == self.report


class Task(ABC):
    """A benchmark. Subclasses are named by ``_target_`` in conf/task and take that yaml's other keys."""

    version: ClassVar[int] = 1
    """Raised whenever a change alters prompts, targets or scores."""
    primary: ClassVar[str]
    """The metric that picks the best epoch and leads tables; higher is better."""
    headline: ClassVar[tuple[str, ...]]
    """The metrics that tables show."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def load(self, data: dict[str, Any]) -> Dataset:
        """Read the data that the ``data`` section asks for. Raises UserError where it is amiss."""

    @abstractmethod
    def score(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
        """Corpus scores, fractions of 1, of one output an example."""

    @abstractmethod
    def statistics(self, output: str, example: Example) -> dict[str, float]:
        """The scores of one output."""

    @abstractmethod
    def signatures(self, count: int) -> dict[str, str]:
        """For each metric family how it was computed, in one line."""

    @abstractmethod
    def published_roles(self) -> Roles:
        """The official code's choice of splits."""

    def completion(self, example: Example) -> str:
        """The text that the model learns to write after the prompt."""
        return example.target + END

    def roles(self, protocol: str, dataset: Dataset, selection: str | None, report: str | None) -> Roles:
        """Split roles under a protocol, with the user's wishes where given.

        Under "standard" a test split is reported and val selects; where there is no test split, val is reported
        and part of train selects (``carve``).

        Raises UserError for an unknown split, or for one split in both roles outside protocol=paper.
        """
        if protocol == "paper":
            chosen = self.published_roles()
        elif "test" in dataset.splits:
            chosen = Roles("train", "val", "test")
        else:
            chosen = Roles("train", "carved", "val")
        chosen = Roles("train", selection or chosen.selection, report or chosen.report)
        for role, split in (("selection", chosen.selection), ("report", chosen.report)):
            if split not in (*dataset.splits, "carved") or split == "train":
                there = ", ".join(name for name in dataset.splits if name != "train")
                raise UserError(f"splits.{role}: {dataset.name} has no split {split!r} to use; there are {there}")
        if chosen.report == "carved":
            raise UserError("splits.report: the carved part of train may select but not be reported")
        if chosen.selected_on_report and protocol != "paper":
            raise UserError(
                f"splits: {chosen.report!r} would both pick the epoch and be reported, which flatters the score; "
                "choose two splits, or protocol=paper to follow the official code"
            )
        return chosen


def carve(dataset: Dataset) -> Dataset:
    """Move min(10%, 1,000) examples of train, drawn with a fixed seed, into a split "carved" for selection."""
    train = dataset.splits["train"]
    count = min(len(train) // 10, 1000)
    if count == 0:
        raise UserError(f"{dataset.name}: {len(train)} training examples are too few to set some aside for selection")
    order = sorted(range(len(train)), key=_draws(CARVE_SEED, len(train)).__getitem__)
    aside = set(order[:count])
    splits = dict(dataset.splits)
    splits["carved"] = [train[i] for i in sorted(aside)]
    splits["train"] = [example for i, example in enumerate(train) if i not in aside]
    return Dataset(dataset.name, dataset.published, splits, dataset.hash)


def _draws(seed: int, count: int) -> list[float]:
    generator = random.Random(seed)
    return [generator.random() for _ in range(count)]


def make_dataset(name: str, published: bool, splits: dict[str, list[Example]]) -> Dataset:
    """A Dataset with its hash. Raises UserError for an empty split or an id that stands twice in one."""
    digest = hashlib.sha256()
    for split, examples in sorted(splits.items()):
        if not examples:
            raise UserError(f"{name}: the split {split} is empty")
        seen: set[str] = set()
        for example in examples:
            if example.id in seen:
                raise UserError(f"{name}: the id {example.id!r} stands twice in the split {split}")
            seen.add(example.id)
            row = [split, example.id, example.prefix, example.prompt, example.target, *example.references]
            digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return Dataset(name, published, splits, digest.hexdigest())


def load_task(section: dict[str, Any]) -> Task:
    """The task that the ``task`` section of a configuration names by ``_target_``. Raises UserError."""
    return instantiate(section, Task)  # type: ignore[type-abstract]
