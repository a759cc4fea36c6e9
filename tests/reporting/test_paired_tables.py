"""The comparisons of a planned table: those of the command compare, for every pair; rows that differ in settings."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from helpers.make_records import make_record

from ssm_tune.commands import compare
from ssm_tune.records.record import find_records, write_record
from ssm_tune.reporting import paired_tables as pairs
from ssm_tune.reporting.planned_table import fill
from ssm_tune.reporting.table_spec import parse_table_spec
from ssm_tune.utils.files import write_jsonl

PLAN: dict[str, Any] = {
    "seeds": [1, 2], "model": "tiny", "data": "sample", "columns": [{"task": "samsum"}], "compare": "state_offset",
    "rows": {"some": ["state_offset", "lora", "bitfit", "full"]},
}  # fmt: skip


def store(results: Path, method: str, seed: int, shift: float) -> None:
    generator = random.Random(seed)
    scores = [min(1.0, generator.random() / 2 + shift) for _ in range(40)]
    folder = results / "runs" / "samsum" / f"{method}-{seed}"
    write_record(folder, make_record(method, seed, sum(scores) / len(scores)))
    rows = [{"id": str(number), "output": "", "statistics": {"rougeL": score}, "references_sha256": f"of {number}"}
            for number, score in enumerate(scores)]  # fmt: skip
    write_jsonl(folder / "predictions.jsonl.gz", rows)


def test_a_tables_pairs_are_those_of_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        store(tmp_path, "state_offset", seed, 0.2)
        store(tmp_path, "lora", seed + 0, 0.1 if seed == 1 else 0.25)
    store(tmp_path, "bitfit", 2, 0.0)  # one seed alone: the pair is of that seed
    found, _ = find_records(tmp_path)
    grid = fill(parse_table_spec("t", PLAN), [record for _, record in found])
    made = pairs.tables(grid, {id(record): path.parent for path, record in found})
    rows = list(csv.DictReader(io.StringIO(made["csv"].decode())))
    assert [(row["second"], row["seeds"]) for row in rows] == [("lora", "1 2"), ("bitfit", "2")]
    assert compare.main(["state_offset", "lora", "--results", str(tmp_path), "--metric", "rougeL", "--json"]) == 0
    (expected,) = json.loads(capsys.readouterr().out)["metrics"]
    for key, name in (("difference", "difference"), ("low", "low"), ("high", "high"), ("p", "p"), ("a", "first_score")):
        assert float(rows[0][name]) == pytest.approx(expected[key], abs=1e-6)
    text = made["md"].decode()
    assert r"| samsum ROUGE-L | bitfit | " in text
    assert "better in 1 and worse in 0 of 2" in text or "better in 2 and worse in 0 of 2" in text


def test_rows_may_differ_in_settings() -> None:
    plan = PLAN | {
        "compare": None,
        "rows": {
            "x": [{"method": "lora", "overrides": {"train.adapter_dtype": kind}} for kind in ("bfloat16", "float32")]
        },
    }
    records = [
        make_record("lora", seed, score, config__train__adapter_dtype=kind)
        for kind, score in (("bfloat16", 0.2), ("float32", 0.3))
        for seed in (1, 2)
    ]
    for order in (records, records[::-1]):
        rows = {row.label: row.values["samsum"][0].stat for row in fill(parse_table_spec("t", plan), order).rows}
        means = {label: value.mean for label, value in rows.items() if value is not None and label != "base model"}
        assert means == pytest.approx({"lora adapter_dtype=bfloat16": 0.2, "lora adapter_dtype=float32": 0.3})
    (first, *_) = fill(parse_table_spec("t", plan | {"sweep": "tiny"}), []).missing
    assert first == "ssm-tune -m method=lora task=samsum +sweep=tiny train.adapter_dtype=bfloat16 seed=1,2"


@pytest.mark.parametrize(("change", "said"), [({"compare": "lorra"}, "names no row"), ({"sweep": "tini"}, "no sweep")])
def test_a_plan_that_names_nothing_is_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_table_spec("t", PLAN | change)
