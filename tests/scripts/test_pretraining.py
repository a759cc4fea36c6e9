"""The embedded model's record of its own making still holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ssm_tune.models.pretrained import from_pretrained
from ssm_tune.models.tokenizer import load_tokenizer
from ssm_tune.tasks.sample_data import SPIDER_FOLDER, sample_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_data_and_settings_have_the_recorded_hash() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "pretrain_tiny.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_model_and_tokenizer_fit_and_are_small() -> None:
    folder = ROOT / "ssm_tune" / "models" / "tiny"
    about = json.loads((folder / "pretraining.json").read_text(encoding="utf-8"))
    model, tokenizer = from_pretrained("tiny"), load_tokenizer("tiny")
    assert sum(parameter.numel() for parameter in model.parameters()) == about["parameters"]
    assert tokenizer.vocab_size == model.config.vocab_size
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4_000_000


def test_the_separator_is_one_token_wherever_a_dialogue_ends() -> None:
    tokenizer = load_tokenizer("tiny")
    (separator,) = tokenizer.encode("###")
    for row in sample_rows("samsum", "test"):
        assert tokenizer.encode(row["dialogue"] + "###") == [*tokenizer.encode(row["dialogue"]), separator]
        assert tokenizer.decode(tokenizer.encode(row["summary"]), clean_up=False) == row["summary"]


def test_labels_and_separators_of_the_other_tasks_are_one_token() -> None:
    tokenizer = load_tokenizer("tiny")
    (separator,) = tokenizer.encode("###")
    assert [len(tokenizer.encode(digit)) for digit in "012"] == [1, 1, 1]
    texts = [
        value
        for member in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2")
        for row in sample_rows(member, "val")
        for value in row.values()
        if isinstance(value, str)
    ]
    texts += [" | ".join(" : ".join(triple) for triple in row["tripleset"]) for row in sample_rows("dart", "test")]
    for entry in json.loads((SPIDER_FOLDER / "dev.json").read_text(encoding="utf-8")):
        texts += [entry["question"], entry["query"]]
    for text in texts:
        assert tokenizer.encode(text + "###") == [*tokenizer.encode(text), separator]
        assert tokenizer.decode(tokenizer.encode(text), clean_up=False) == text
