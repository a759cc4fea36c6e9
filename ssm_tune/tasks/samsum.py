"""SAMSum: third-person summaries of chat dialogues. Gliwa et al. (2019), arXiv 1911.12237."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssm_tune.errors import UserError
from ssm_tune.metrics.text import rouge, rouge_signature, rouge_statistics
from ssm_tune.tasks.base import SEPARATOR, Dataset, Example, Roles, Task, make_dataset
from ssm_tune.tasks.sample.dialogues import samsum_rows
from ssm_tune.text import as_decoded

COLUMNS = ("id", "dialogue", "summary")
FILES = {"train": "train.json", "val": "val.json", "test": "test.json"}
COUNTS = {"train": 14_732, "val": 818, "test": 819}
"""Rows of the original archive (arxiv.org/src/1911.12237v2/anc/corpus.7z)."""
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
HUB_COUNTS = {"train": 14_731, "val": 818, "test": 819}


class SAMSum(Task):
    """The dialogue, without any instruction, then ``###``; the summary is the answer.

    hub: the data set's id on the hub; revision: its commit, None for the newest.
    """

    primary = "rougeL"
    headline = ("rouge1", "rouge2", "rougeL")

    def __init__(self, name: str, hub: str, revision: str | None) -> None:
        super().__init__(name)
        self.hub, self.revision = hub, revision

    def load(self, data: dict[str, Any]) -> Dataset:
        if data["source"] == "sample":
            rows = {split: samsum_rows(split) for split in FILES}
            return _dataset("sample", False, rows)
        if data["source"] == "hub":
            return _dataset(self.name, True, _checked(self._from_hub(), HUB_COUNTS, self.hub))
        folder = Path(data["path"]).expanduser()
        rows = {split: _read(folder / file) for split, file in FILES.items()}
        if data["check"] == "off":
            name = data["name"] or folder.resolve().name
            if name in (self.name, "sample"):
                raise UserError(f"unchecked data cannot go by the name {name!r}: add data.name=NAME of their own")
            return _dataset(name, False, rows)
        return _dataset(self.name, True, _checked(rows, COUNTS, str(folder)))

    def _from_hub(self) -> dict[str, list[dict[str, str]]]:
        from ssm_tune.tasks.hub import load_split

        rows: dict[str, list[dict[str, str]]] = {}
        for split, hub_split in HUB_SPLITS.items():
            rows[split] = []
            for row in load_split(self.hub, self.revision, hub_split, COLUMNS):
                if row["id"] is None or row["summary"] is None:
                    raise UserError(f"{self.hub}, {hub_split}: the row with id {row['id']} lacks an id or a summary")
                # the copy on the hub turned the one empty dialogue (id 13828807) into a missing value
                texts = {"dialogue": row["dialogue"] or "", "summary": row["summary"]}
                rows[split].append({"id": str(row["id"]), **texts})
        return rows

    def published_roles(self) -> Roles:
        return Roles(train="train", selection="test", report="test")

    def score(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
        return rouge(outputs, [_references(example) for example in examples])

    def statistics(self, output: str, example: Example) -> dict[str, float]:
        return rouge_statistics(output, _references(example))

    def signatures(self, count: int) -> dict[str, str]:
        return {"rouge": rouge_signature(count)}


def _references(example: Example) -> list[str]:
    return [as_decoded(reference) for reference in example.references]


def _dataset(name: str, published: bool, rows: dict[str, list[dict[str, str]]]) -> Dataset:
    splits = {
        split: [Example(row["id"], row["dialogue"] + SEPARATOR, row["summary"], (row["summary"],)) for row in examples]
        for split, examples in rows.items()
    }
    return make_dataset(name, published, splits)


def _checked(rows: dict[str, list[Any]], counts: dict[str, int], where: str) -> dict[str, list[Any]]:
    for split, expected in counts.items():
        if len(rows[split]) != expected:
            raise UserError(
                f"{where} is not the published SAMSum: {split} has {len(rows[split])} rows, expected {expected}; "
                "to run on it as a data set of its own, add data.check=off"
            )
    return rows


def _read(path: Path) -> list[dict[str, str]]:
    """One official file: a JSON list of {"id", "dialogue", "summary"}, all strings."""
    if not path.is_file():
        raise UserError(f"{path} is missing: SAMSum's folder holds {', '.join(FILES.values())}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(entries, list):
        raise UserError(f"{path}, line 1: expected a JSON list of dialogues, got a {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(column), str) for column in COLUMNS):
            what = f"entry {number}{_line_of(path, entries, number)}"
            raise UserError(f"{path}, {what}: expected an object with the strings {', '.join(COLUMNS)}")
    return entries


def _line_of(path: Path, entries: list[Any], number: int) -> str:
    """Where an entry with an id stands in the file, as far as a search for the id tells."""
    entry = entries[number - 1]
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        return ""
    wanted = json.dumps(entry["id"])
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if wanted in text:
            return f" (id {wanted}, line {line})"
    return ""
