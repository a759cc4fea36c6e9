"""GLUE's single-digit tasks: is it grammatical, the same, implied? Wang et al. (2018), arXiv 1804.07461.

A member is defined by its yaml in conf/task alone: the columns of its texts and labels, the meaning of the digits,
the published counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ssm_tune.config.protocol import published_data
from ssm_tune.hub.download import dataset_files, read_table
from ssm_tune.metrics.classification import classification, classification_signature, classification_statistics
from ssm_tune.tasks.base import (
    OWN_WORDING,
    SEPARATOR,
    Dataset,
    Example,
    Roles,
    Scored,
    Task,
    data_name,
    make_dataset,
    text_field,
)
from ssm_tune.tasks.files import ACCEPT, HUB_CHANGED, check_counts, check_unquoted, read_tsv
from ssm_tune.tasks.sample_data import sample_rows
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import user_path

POSITIVE = "1"
"""The class whose F1 is taken, where a member has an F1: the paraphrase, the duplicate."""


@dataclass(frozen=True)
class Part:
    """A file of a split. MNLI's val has two, distinguished by ``group``; test files have no labels and are not read.

    file: the official tsv; hub: the split's name on the hub; rows, classes: the published counts (classes: rows with
    label 0, 1, ..., where known).
    """

    split: str
    file: str
    hub: str
    rows: int
    classes: Sequence[int] | None = None
    group: str = ""


@dataclass(frozen=True)
class Rebuilt:
    """MRPC's splits from the original corpus, where that is available: rows whose ``key`` is in ``ids`` are val."""

    file: str
    ids: str
    key: Sequence[str]


class Glue(Task):
    """An instruction, the text or the two texts, ``###`` after each; the answer is the label's digit.

    instruction: the text before the texts, the space at its end included. texts: the texts in the prompt's order, by
    their names on the hub, each with its column in the official files. labels: what the official files write for the
    digits 0, 1, ... label: in which column. header: the columns of official files without a header.
    member: the name on the hub, and of the sample data; folder: of the official files, below data.path or itself it.
    metrics: of metrics.classification, the primary one first. short_rows_left_out: as the hub's builder does for QQP.
    """

    mode: ClassVar[Literal["classify", "generate"]] = "classify"
    notes: ClassVar[tuple[str, ...]] = (OWN_WORDING,)

    def __init__(
        self,
        name: str,
        member: str,
        instruction: str,
        texts: Mapping[str, str],
        labels: Sequence[str],
        label: str,
        parts: Sequence[Mapping[str, Any]],
        metrics: Sequence[str],
        folder: str,
        hub: str,
        revision: str | None,
        header: Sequence[str] | None = None,
        rebuilt: Mapping[str, Any] | None = None,
        short_rows_left_out: bool = False,
    ) -> None:
        super().__init__(name)
        if not isinstance(instruction, str):
            raise UserError(f"task.instruction must be text, got {instruction!r}")
        self.member, self.instruction, self.folder = member, instruction, folder
        self.texts, self.labels, self.label = dict(texts), list(labels), label
        self.digits = [str(digit) for digit in range(len(self.labels))]
        self.parts, self.metrics = [Part(**part) for part in parts], tuple(metrics)
        self.hub, self.revision, self.header = hub, revision, header
        self.rebuilt = Rebuilt(**rebuilt) if rebuilt else None
        self.short_rows_left_out = short_rows_left_out

    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        origin: dict[str, str] = {}
        splits: dict[str, list[Example]] = {part.split: [] for part in self.parts}
        if data["source"] == "sample":
            for split in splits:
                splits[split] = [self._example(row, row.get("half", "")) for row in sample_rows(self.member, split)]
        else:
            if data["source"] == "hub":
                where, remedy, rows = self.hub, HUB_CHANGED, self._from_hub(origin)
            else:
                where, remedy = data["path"], ACCEPT
                rows = self._from_files(user_path(where), origin, check=data["check"] != "off")
            for part, given in zip(self.parts, rows, strict=True):
                splits[part.split] += [self._example(row, part.group) for row in given]
            if published_data(data):
                self._check(where, remedy, splits, origin)
        metrics = tuple(name if protocol == "standard" else f"paper_{name}" for name in self.metrics)
        halves = tuple(f"accuracy_{part.group}" for part in self.parts if part.group)
        headline = (metrics + halves if protocol == "standard" else metrics) + ("outside_labels",)
        name, published = data_name(data, self.name), published_data(data)
        return make_dataset(name, published, splits, metrics[0], headline, origin)

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.texts)

    def example_of(self, row: Mapping[str, Any], protocol: str) -> Example:
        return Example("", self._prompt({text: text_field(row, text) for text in self.texts}), "", ())

    def label_names(self) -> dict[str, str]:
        return dict(zip(self.digits, self.labels, strict=True))

    def _prompt(self, row: Mapping[str, Any]) -> str:
        return self.instruction + "".join(row[text] + SEPARATOR for text in self.texts)

    def _example(self, row: Mapping[str, Any], group: str) -> Example:
        """From a row as the hub has it: texts, label as a number, idx."""
        prompt = self._prompt(row)
        digit = self.digits[row["label"]]
        name = f"{group}-{row['idx']}" if group else str(row["idx"])
        return Example(name, prompt, digit, (digit,), group=group)

    def _from_hub(self, origin: dict[str, str]) -> list[list[dict[str, Any]]]:
        """The rows of each part."""
        patterns = [f"{self.member}/{part.hub}-*.parquet" for part in self.parts]
        found = dataset_files(self.hub, self.revision, patterns)
        origin |= {"hub": self.hub, "commit": found.revision}
        parts = []
        for pattern in patterns:
            rows = read_table(found.files[pattern], [*self.texts, "label", "idx"])
            for row in rows:
                if row["label"] not in range(len(self.labels)) or not all(isinstance(row[t], str) for t in self.texts):
                    raise UserError(f"{self.hub}, {pattern}: the row with idx {row['idx']} lacks a text or a label")
            parts.append(rows)
        return parts

    def _from_files(self, path: Path, origin: dict[str, str], check: bool) -> list[list[dict[str, Any]]]:
        """The rows of each part, from the official files."""
        folder = path / self.folder if (path / self.folder).is_dir() else path
        parts = self._rebuilt(folder, check)
        if parts is not None:
            origin["rebuilt"] = "from the original corpus and its ids"
            return parts
        parts = []
        for part in self.parts:
            rows, short = self._read(folder / part.file, check)
            if short:
                origin[f"{part.file}, rows left out"] = f"{short} with a field missing"
            parts.append([row for _, row in rows])
        return parts

    def _read(
        self, file: Path, check: bool, key: Sequence[str] = ()
    ) -> tuple[list[tuple[tuple[str, ...], dict[str, Any]]], int]:
        """(key, row) of every row, and how many were left out."""
        columns = [*self.texts.values(), self.label, *key]
        holds = f"the folder {self.folder} holds {', '.join(part.file for part in self.parts)}"
        table = read_tsv(file, columns, holds, self.header, self.short_rows_left_out)
        rows = []
        for index, line, fields in table.rows:
            texts, label = fields[: len(self.texts)], fields[len(self.texts)]
            if label not in self.labels:
                expected = ", ".join(self.labels)
                raise UserError(f"{file}, line {line}: the label is {label[:80]!r}, expected one of {expected}")
            row: dict[str, Any] = {"label": self.labels.index(label), "idx": index}
            row |= zip(self.texts, texts, strict=True)
            rows.append((tuple(fields[len(self.texts) + 1 :]), row))
        if check:
            check_unquoted(file, (row[text] for _, row in rows for text in self.texts))
        return rows, table.short

    def _rebuilt(self, folder: Path, check: bool) -> list[list[dict[str, Any]]] | None:
        """train and val of the original corpus, in its order; None where it is not there."""
        if self.rebuilt is None:
            return None
        file, ids = folder / self.rebuilt.file, folder / self.rebuilt.ids
        if not (file.is_file() and ids.is_file()):
            return None
        rows, _ = self._read(file, check, self.rebuilt.key)
        # the list of ids has no header
        chosen = {tuple(fields) for _, _, fields in read_tsv(ids, self.rebuilt.key, "", self.rebuilt.key).rows}
        return [[row for key, row in rows if (key in chosen) == (part.split == "val")] for part in self.parts]

    def _check(self, where: str, remedy: str, splits: dict[str, list[Example]], origin: dict[str, str]) -> None:
        found: Counter[str] = Counter()
        expected: dict[str, int] = {}
        for part in self.parts:
            name = f"{part.split} {part.group}".strip()
            examples = [example for example in splits[part.split] if example.group == part.group]
            found[f"{name} rows"] = len(examples)
            found.update(f"{name} rows with label {example.target}" for example in examples)
            expected[f"{name} rows"] = part.rows
            for digit, count in zip(self.digits, part.classes or [], strict=False):
                expected[f"{name} rows with label {digit}"] = count
        if self.rebuilt and remedy == ACCEPT and "rebuilt" not in origin:
            files = f"{self.rebuilt.file} and {self.rebuilt.ids}"
            remedy = f"with {files} in the folder the splits are built from the original corpus; {remedy}"
        check_counts(where, f"GLUE's {self.folder}", found, expected, remedy)

    def published_roles(self) -> Roles:
        return Roles(train="train", selection="val", report="val")

    def answer_choices(self, examples: Sequence[Example]) -> tuple[str, ...]:
        return tuple(self.digits)

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> Scored:
        """The member's metrics over all examples, and the accuracy of each group, where examples have one."""
        labels = [example.target for example in examples]
        values = classification(predictions, labels, self.digits, self.metrics, self._positive)
        for group in dict.fromkeys(example.group for example in examples if example.group):
            here = [index for index, example in enumerate(examples) if example.group == group]
            alone = classification([predictions[i] for i in here], [labels[i] for i in here], self.digits)
            values[f"accuracy_{group}"] = alone["accuracy"]
        statistics = [
            classification_statistics(prediction, label, self.digits)
            for prediction, label in zip(predictions, labels, strict=True)
        ]
        return Scored(values, statistics)

    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        line = classification_signature(len(examples), self.digits, self.metrics, self._positive)
        return {"classification": line}

    @property
    def _positive(self) -> str | None:
        return POSITIVE if "f1" in self.metrics else None
