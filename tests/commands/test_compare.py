"""compare: whom it lets stand side by side, in which order, and whom it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from helpers.hostile_texts import HOSTILE
from helpers.make_records import make_record

from ssm_tune.commands import compare
from ssm_tune.records.record import write_record
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import write_jsonl

SCORES = {"a": 0.1, "b": 0.5, "c": 0.9, "d": 0.3}


def store(results: Path, name: str, method: str, scores: dict[str, float], seed: int = 1, **changes: Any) -> Path:
    """A run whose examples score ROUGE-L ``scores``, and whose record says their mean."""
    folder = results / "runs" / "samsum" / name
    mean = sum(scores.values()) / len(scores)
    write_record(folder, make_record(method, seed, mean, **changes))
    rows = [{"id": name, "output": "", "statistics": {"rougeL": score}, "references_sha256": f"of {name}"}
            for name, score in scores.items()]  # fmt: skip
    write_jsonl(folder / "predictions.jsonl.gz", rows)
    return folder


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert compare.main([*map(str, arguments), "--metric", "rougeL", "--resamples", "500", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_examples_are_paired_by_id_whatever_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A constant difference of every pair has an interval of no width, which wrong pairs would not have."""
    first = store(tmp_path, "first", "state_offset", {name: score + 0.1 for name, score in SCORES.items()})
    names = list(SCORES)
    for seed in range(3):
        random.Random(seed).shuffle(names)
        second = store(tmp_path, "second", "lora", {name: SCORES[name] for name in names})
        (found,) = compared(capsys, first, second)["metrics"]
        assert [found[key] for key in ("difference", "low", "high")] == pytest.approx([0.1] * 3)
        assert (found["a"], found["b"]) == (pytest.approx(0.55), pytest.approx(0.45))


def test_a_method_stands_for_its_seeds_and_an_option_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        store(tmp_path, f"lora-{seed}", "lora", SCORES, seed)
        for rank in (4, None):
            options = {"cell__method_options": {"rank": rank}}
            store(tmp_path, f"offset-{seed}-{rank}", "state_offset", SCORES, seed, **options)
    found = compared(capsys, "state_offset,rank=4", "lora", "--results", tmp_path)
    assert found["seeds"] == [[1, 2], [1, 2]]
    assert found["examples"] == 4
    with pytest.raises(UserError, match=r"its runs are of several settings.*METHOD,rank=4"):
        compare.main(["state_offset", "lora", "--results", str(tmp_path)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hashes__data": "e" * 64}, "their data differ"),
        ({"cell__task": "dart"}, "their tasks differ"),
        ({"cell__protocol": "paper"}, "their protocols differ"),
        ({"splits__report": "val"}, "their splits differ"),
        ({"signatures": {"rouge": "other"}}, "their metric signatures differ"),
        ({"status": "diverged"}, "diverged and have nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    first, second = store(tmp_path, "first", "lora", SCORES), store(tmp_path, "second", "lora", SCORES, **change)
    with pytest.raises(UserError, match=said):
        compare.main([str(first), str(second)])


def test_other_examples_other_references_and_wrong_records_are_refused(tmp_path: Path) -> None:
    first = store(tmp_path, "first", "lora", SCORES)
    fewer = store(tmp_path, "fewer", "lora", {"a": 0.1, "b": 0.5})
    with pytest.raises(UserError, match=r"first.*fewer.*answer other examples"):
        compare.main([str(first), str(fewer)])
    rows = [{"id": name, "statistics": {"rougeL": score}, "references_sha256": "another"}
            for name, score in SCORES.items()]  # fmt: skip
    other = store(tmp_path, "other", "lora", SCORES)
    write_jsonl(other / "predictions.jsonl.gz", rows)
    with pytest.raises(UserError, match="answer other examples"):
        compare.main([str(first), str(other)])
    write_record(other, make_record("lora", 1, 0.7))
    write_jsonl(other / "predictions.jsonl.gz", [row | {"references_sha256": f"of {row['id']}"} for row in rows])
    with pytest.raises(UserError, match="they do not belong together"):
        compare.main([str(first), str(other), "--metric", "rougeL"])


def test_names_that_are_not_there(tmp_path: Path) -> None:
    run = store(tmp_path, "first", "lora", SCORES)
    for arguments, said in (
        (["prefix", "lora"], "no run of such a method; there are runs of lora"),
        (["prefix", "lora", "--task", "dart"], "no run of such a method --task dart; there are"),
        ([run, run, "--metric", "bleu"], "has no metric 'bleu'; it has rouge1"),
        ([run, run, "--resamples", "5"], "--resamples must be at least 100"),
    ):
        with pytest.raises(UserError, match=said):
            compare.main([*map(str, arguments), "--results", str(tmp_path)])


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_names_in_records_are_printed_as_they_are(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {f"cell__{name}": text for name in ("task", "data", "model")}
    pair = [store(tmp_path, name, f"{name}{text}", SCORES, **named) for name in ("first", "second")]
    assert compare.main([*map(str, pair), "--metric", "rougeL", "--resamples", "100"]) == 0
    printed = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert len(printed.splitlines()) == 6
