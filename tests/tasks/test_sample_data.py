"""The sample data that the package ships: never another row, so that scores of different days can be compared."""

from __future__ import annotations

import hashlib
import json

import pytest

from ssm_tune.config.compose import compose
from ssm_tune.tasks.base import load_task
from ssm_tune.tasks.sample_data import FOLDER, sample_rows
from ssm_tune.utils.errors import UserError

ROWS = {
    ("samsum", "train"): "e432431d9556a44160961ffbc609607025890a2471af6813c90e7ec80417661e",
    ("samsum", "val"): "cbe3bb063d438df0a44fa35e74da289d9bae3a4e47a7eaa4821d2cbd9f6190e5",
    ("samsum", "test"): "33a6dfa76bae332b73c9a94335499b1a4515ce57ff0ba6c149f5f1927ed48fa0",
}
"""sha256 of the rows as one JSON list."""
DATA = {
    "dart": "f47a07c1cb659080582727f1ec46e7df33ebc711800abf864d629785892f4e88",
    "glue_cola": "cf83d37d9fd229d5fc5ffb90558cfc64f7b1f0b8af30f44708765ced63180271",
    "glue_mnli": "7c4b8fa8b6d685572d1d0f305094ab9ef4fd255c15fd59e76de18494e31811c3",
    "glue_mrpc": "0e6aeb888e7a350292bbe2331ae3acc2717f1b0a7a8a0b7ca2a85bf1e9181da8",
    "glue_qnli": "b61ca2b73ffd37b481fa1834308e1e721514e28a72e249bc96b04627c322c035",
    "glue_qqp": "5f1d29446adf9d22faf0d1c190ee898678969c46047e92b969d87c3b9509c30e",
    "glue_rte": "4fc9ff6826b48d03d0666457e3495c512601a45b86a412291dcf3f6282044d7b",
    "glue_sst2": "4f03b98686e3700a9ff9033dafa9fbd2216226df058aa32611389e601199d35a",
    "samsum": "022fe0a2768fc288ecb613dcff5fb2f09e0e089dd98c8420c78c2d32e5600692",
    "spider": "7c254a7b9a2ca0205aa2fa8f8b063ccc3b3cad66f2e02c6e567dfc6f68da36a2",
}
"""hashes.data of the shipped records."""


@pytest.mark.parametrize(("name", "split"), ROWS)
def test_the_rows_have_the_recorded_hash(name: str, split: str) -> None:
    rows = sample_rows(name, split)
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == ROWS[name, split]


@pytest.mark.parametrize("task", DATA)
def test_the_data_set_has_the_hash_of_the_records(task: str) -> None:
    section = compose([f"task={task}", "method=bitfit", "model=tiny", "data=sample"]).task
    data = {"source": "sample", "path": None, "check": "counts", "name": None}
    assert load_task(section).load(data, "standard").hash == DATA[task]


def test_an_unknown_data_set_or_split_is_refused() -> None:
    with pytest.raises(UserError, match=r"samsum-dev.*samsum-train"):
        sample_rows("samsum", "dev")


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1_000_000
