"""What every task is: a source of examples, a choice of splits, and a way to score predictions."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ssm_tune.config.protocol import published_data
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import user_path
from ssm_tune.utils.instantiate import instantiate
from ssm_tune.utils.text import normalised_signature

SEPARATOR = "###"
"""Between the parts of a prompt and before the answer: plain text, encoded with what precedes it."""
END = "<|endoftext|>"
"""The end of every generated answer, and the padding: token 0 of the tokenizers in use."""
OWN_WORDING = "the instruction (task.instruction) is our own wording, not the official code's"
"""A note of the tasks whose prompts begin with an instruction."""


@dataclass(frozen=True)
class Example:
    """One example as text. The model reads ``prefix`` + ``prompt`` (encoded apart) and learns ``target``.

    group: what is set aside or scored together (Spider's database, MNLI's matched or mismatched half).
    context: what scoring needs beside texts (Spider's schema and database); no part of the texts' hash.
    """

    id: str
    prompt: str
    target: str
    references: tuple[str, ...]
    prefix: str = ""
    group: str = ""
    context: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Dataset:
    """Splits of examples, as one protocol sees them.

    name: the published name for the published data alone. hash: of all texts, and of what else scores depend on.
    primary: the metric that picks the best epoch and leads tables, higher is better; headline: what tables show.
    origin: where the data come from, for the record (hub id and commit, say).
    """

    name: str
    published: bool
    splits: dict[str, list[Example]]
    hash: str
    primary: str
    headline: tuple[str, ...]
    origin: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """values: corpus scores; statistics: for each example its own, in the examples' order. Fractions of 1."""

    values: dict[str, float]
    statistics: list[dict[str, float]]


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
    mode: ClassVar[Literal["classify", "generate"]] = "generate"
    """classify: the answer is one token, read off one forward pass; generate: a text, decoded to its end."""
    clean_up: ClassVar[bool] = True
    """Whether predictions are stored after the official clean-up of spaces (utils.text.clean_up), or as decoded."""

    notes: ClassVar[tuple[str, ...]] = ()
    """Remarks that go into each of its records."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        """Read the data that the ``data`` section asks for, as ``protocol`` (paper or standard) sees them.

        Raises UserError where they are missing or invalid.
        """

    def check_scoring(self, examples: Sequence[Example]) -> None:  # noqa: B027
        """Called before hours of training; for most tasks there is nothing to check.

        Raises UserError where something that scoring these examples needs is missing.
        """

    @abstractmethod
    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> Scored:
        """Corpus scores of ``predictions``, one per example, and each example's own.

        A metric that the paper protocol computes in its own way has a second name, ``paper_NAME``.
        """

    @abstractmethod
    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        """For each metric family how it is computed over these examples, in one line."""

    @abstractmethod
    def published_roles(self) -> Roles:
        """The official code's choice of splits."""

    def answer_choices(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """With mode classify: every answer that these examples may have, each one token, as predictions spell it."""
        return tuple(sorted({example.target for example in examples}))

    @property
    def fields(self) -> tuple[str, ...]:
        """The keys of what a prompt is made of, in a row such as ``example_of`` takes."""
        return ("prompt",)

    def fields_of(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """The keys of what these examples' prompts are made of."""
        return self.fields

    def example_of(self, row: Mapping[str, Any], protocol: str) -> Example:
        """The prompt that a user's row stands for, in the form of training, as an example without an answer.

        Raises UserError for a field that is missing or empty.
        """
        return Example("", text_field(row, "prompt") + SEPARATOR, "", ())

    def decided(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Settings of the task that its data decided; with them a tuned model can be asked without the data."""
        return {}

    def label_names(self) -> dict[str, str]:
        """With mode classify: each answer, and the label that it stands for. Raises UserError where that is unknown."""
        raise UserError(f"task={self.name} does not say which labels its answers stand for (Task.label_names)")

    def to_score(self, data: dict[str, Any], protocol: str, split: str | None) -> tuple[Dataset, str]:
        """The data, and the split of them that a finished adapter is scored on: by default the one that runs report.

        Raises UserError as ``load`` does, and for an unknown split.
        """
        dataset = self.load(data, protocol)
        chosen = split or self.roles(protocol, dataset, None, None).report
        if chosen not in dataset.splits:
            raise UserError(f"{dataset.name} has no split {chosen!r}; there are {', '.join(dataset.splits)}")
        return dataset, chosen

    def completion(self, example: Example) -> str:
        """The text that the model learns to write after the prompt."""
        return example.target if self.mode == "classify" else example.target + END

    def max_tokens(self, protocol: str) -> int | None:
        """Examples with more tokens in prompt and completion together are left out under ``protocol``."""
        return None

    def roles(self, protocol: str, dataset: Dataset, selection: str | None, report: str | None) -> Roles:
        """The splits of each role under a protocol, with the user's choices where given.

        Under "standard" a test split is reported and val selects; where there is no test split, val is reported
        and a part of train selects (``splits.hold_out_validation``).

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


def make_dataset(
    name: str,
    published: bool,
    splits: dict[str, list[Example]],
    primary: str,
    headline: tuple[str, ...],
    origin: dict[str, str] | None = None,
    extra: str = "",
) -> Dataset:
    """A Dataset with its hash. Raises UserError for an empty split or a duplicate id in one.

    extra: what scores depend on beside texts, as a hash of its own (the contents of Spider's databases).
    """
    digest = hashlib.sha256(extra.encode())
    for split, examples in sorted(splits.items()):
        if not examples:
            raise UserError(f"{name}: the split {split} is empty")
        seen: set[str] = set()
        for example in examples:
            if example.id in seen:
                raise UserError(f"{name}: duplicate id {example.id[:80]!r} in the split {split}")
            seen.add(example.id)
            row = [split, example.id, example.prefix, example.prompt, example.target, *example.references]
            digest.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return Dataset(name, published, splits, digest.hexdigest(), primary, headline, origin or {})


def text_field(row: Mapping[str, Any], key: str) -> str:
    """A text of a user's row. Raises UserError where it is missing, another thing, or blank."""
    value = row.get(key)
    if key not in row:
        raise UserError(f"no key {key!r}; it has {', '.join(map(repr, row)) or 'none'}"[:200])
    if not isinstance(value, str):
        raise UserError(f"{key!r} must be a text, got {type(value).__name__}")
    if not value.strip():
        raise UserError(f"the {key} is empty")
    return value


def data_name(data: dict[str, Any], task: str) -> str:
    """The data's name in records and tables: the task's own for the published data alone.

    Raises UserError where other data would take that name.
    """
    if data["source"] == "sample":
        return "sample"
    if published_data(data):
        return task
    path = user_path(data["path"]).resolve()
    name = data["name"] or (path.stem if path.is_file() else path.name)
    if name in (task, "sample"):
        raise UserError(f"unchecked data cannot go by the name {name!r}: add data.name=NAME of their own")
    return str(name)


def with_normalisation(signatures: dict[str, str], examples: Sequence[Example]) -> dict[str, str]:
    """The signatures, with the normalisation of texts where it changes a reference."""
    end = normalised_signature(reference for example in examples for reference in example.references)
    return {name: line + end for name, line in signatures.items()}


def load_task(section: dict[str, Any]) -> Task:
    """The task that the ``task`` section of a configuration names by ``_target_``. Raises UserError."""
    return instantiate(section, Task, "ssm_tune.tasks")  # type: ignore[type-abstract]
