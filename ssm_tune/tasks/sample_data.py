"""The sample data of ``data=sample``: small generated data sets in the form of the published ones, part of the package.

They are files in the folder ``sample`` beside this module, made once by ``scripts/make_sample_data.py``.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from ssm_tune.utils.errors import UserError

FOLDER = Path(__file__).parent / "sample"
SPIDER_FOLDER = FOLDER / "spider"
"""In the layout of Spider's archive: tables.json, train_spider.json, dev.json, database/DB_ID/DB_ID.sqlite."""


def rows_file(name: str, split: str) -> str:
    return f"{name}-{split}.jsonl.gz"


def sample_rows(name: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split of a data set, always the same.

    name: samsum or dart (splits train, val and test), or a member of GLUE such as rte (splits train and val).
    Returns rows with the keys of the published data: ``id``, ``dialogue`` and ``summary`` for samsum; ``tripleset``
    and ``annotations`` for dart; the texts, ``label`` and ``idx`` for GLUE, and in mnli's val ``half``, matched or
    mismatched.
    Raises UserError for an unknown data set or split.
    """
    try:
        with gzip.open(FOLDER / rows_file(name, split), "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except FileNotFoundError as error:
        there = ", ".join(sorted(path.name.removesuffix(".jsonl.gz") for path in FOLDER.glob("*.jsonl.gz")))
        raise UserError(f"there is no sample data {name}-{split}; there are {there}") from error
