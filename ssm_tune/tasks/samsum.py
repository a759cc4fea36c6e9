"""SAMSum: third-person summaries of chat dialogues. Gliwa et al. (2019), arXiv 1911.12237."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssm_tune.config.protocol import published_data
from ssm_tune.hub.download import dataset_files, read_table
from ssm_tune.metrics.rouge import rouge_scored, rouge_signature
from ssm_tune.tasks.base import (
    SEPARATOR,
    Dataset,
    Example,
    Roles,
    Scored,
    Task,
    data_name,
    make_dataset,
    text_field,
    with_normalisation,
)
from ssm_tune.tasks.files import ACCEPT, HUB_CHANGED, check_counts, read_objects
from ssm_tune.tasks.sample_data import sample_rows
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import user_path
from ssm_tune.utils.text import as_decoded, nfc

COLUMNS = ("id", "dialogue", "summary")
FILES = {"train": "train.json", "val": "val.json", "test": "test.json"}
COUNTS = {"train rows": 14_732, "val rows": 818, "test rows": 819}
"""Of the original archive (arxiv.org/src/1911.12237v2/anc/corpus.7z)."""
HUB_FILES = {"train": "train.csv", "val": "validation.csv", "test": "test.csv"}
HUB_COUNTS = COUNTS | {"train rows": 14_731}


class SAMSum(Task):
    """The dialogue, without any instruction, then ``###``; the summary is the answer.

    hub: the data set's id on the hub; revision: its commit, None for the newest.
    """

    def __init__(self, name: str, hub: str, revision: str | None) -> None:
        super().__init__(name)
        self.hub, self.revision = hub, revision

    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        origin: dict[str, str] = {}
        if data["source"] == "sample":
            rows = {split: sample_rows("samsum", split) for split in FILES}
        elif data["source"] == "hub":
            rows = self._from_hub(origin)
            check_counts(self.hub, "SAMSum", _counts(rows), HUB_COUNTS, HUB_CHANGED)
        else:
            folder = user_path(data["path"])
            holds = f"SAMSum's folder holds {', '.join(FILES.values())}"
            rows = {split: read_objects(folder / file, COLUMNS, holds, "dialogues") for split, file in FILES.items()}
            if data["check"] != "off":
                check_counts(str(folder), "SAMSum", _counts(rows), COUNTS, ACCEPT)
        splits = {
            split: [Example(row["id"], row["dialogue"] + SEPARATOR, row["summary"], (row["summary"],)) for row in given]
            for split, given in rows.items()
        }
        name, published = data_name(data, self.name), published_data(data)
        return make_dataset(name, published, splits, "rougeL", ("rouge1", "rouge2", "rougeL"), origin)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("dialogue",)

    def example_of(self, row: Mapping[str, Any], protocol: str) -> Example:
        return Example("", text_field(row, "dialogue") + SEPARATOR, "", ())

    def _from_hub(self, origin: dict[str, str]) -> dict[str, list[dict[str, str]]]:
        found = dataset_files(self.hub, self.revision, list(HUB_FILES.values()))
        origin |= {"hub": self.hub, "commit": found.revision}
        rows: dict[str, list[dict[str, str]]] = {}
        for split, file in HUB_FILES.items():
            rows[split] = []
            for row in read_table(found.files[file], COLUMNS):
                if row["id"] is None or row["summary"] is None:
                    raise UserError(f"{self.hub}, {file}: the row with id {row['id']} lacks an id or a summary")
                # the copy on the hub turned the one empty dialogue (id 13828807) into a missing value
                texts = {"dialogue": row["dialogue"] or "", "summary": row["summary"]}
                rows[split].append({"id": str(row["id"]), **texts})
        return rows

    def published_roles(self) -> Roles:
        return Roles(train="train", selection="test", report="test")

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> Scored:
        references = [[as_decoded(reference) for reference in example.references] for example in examples]
        return Scored(*rouge_scored(list(map(nfc, predictions)), references))

    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        return with_normalisation({"rouge": rouge_signature(len(examples))}, examples)


def _counts(rows: dict[str, list[Any]]) -> dict[str, int]:
    return {f"{split} rows": len(given) for split, given in rows.items()}
