"""splits.limit: few examples of every split, and a record that no table takes for a result."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.make_records import make_record
from helpers.quick_runs import left, settings, write_data

from ssm_tune.cli import main
from ssm_tune.config.compose import compose
from ssm_tune.records.run_id import request_hash
from ssm_tune.reporting.planned_table import fill
from ssm_tune.reporting.run_tables import tables_from_records
from ssm_tune.reporting.table_spec import parse_table_spec

LIMIT = 4
SMOKE = {"config__splits": {"limit": LIMIT}}


@pytest.mark.slow
def test_a_smoke_run_uses_few_examples_of_every_split_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSM_TUNE_CACHE", str(tmp_path / "cache"))
    write_data(tmp_path / "data.jsonl", 100)
    line = settings(tmp_path, "bitfit", "train.max_steps=1")
    assert main([*line, f"splits.limit={LIMIT}"]) == 0
    assert main(line) == 0  # the base model's predictions of the smoke run are not taken for the whole split's
    found = {len(run["predictions.jsonl.gz"].splitlines()): run for run in left(tmp_path / "results").values()}
    assert min(found) == LIMIT < max(found)
    for count, run in found.items():
        assert len(run["predictions-frozen.jsonl.gz"].splitlines()) == count
    smoke, whole = (found[count]["record"] for count in sorted(found))
    assert smoke["config"]["splits"]["limit"] == LIMIT
    assert "limit" not in whole["config"]["splits"]
    assert len(smoke["notes"]) == len(whole["notes"]) + 1
    capsys.readouterr()
    (folder,) = (tmp_path / "results").glob(f"runs/*/*{smoke['cell_hash'][:8]}")
    assert main(["score", str(folder)]) == 0  # the same examples again


def test_it_is_part_of_a_run_where_it_is_set(tmp_path: Path) -> None:
    write_data(tmp_path / "data.jsonl")
    line = settings(tmp_path, "bitfit")
    hashes = [request_hash(compose([*line, *more])) for more in ([], ["splits.limit=null"], ["splits.limit=8"])]
    assert hashes[0] == hashes[1] != hashes[2]
    assert main([*line, "splits.limit=0"]) == 2


def test_no_table_mixes_smoke_runs_with_whole_ones() -> None:
    whole, smoke = make_record(seed=1, score=0.2), make_record(seed=2, score=0.9, **SMOKE)
    tables = tables_from_records([whole, smoke])
    assert [len(records) for table in tables for records in table.picked.values()] == [1, 1]
    assert ["no result" in table.spec.title for table in tables] == [False, True]


@pytest.mark.parametrize("with_whole", [True, False])
def test_a_planned_table_leaves_smoke_runs_out_and_says_so(with_whole: bool) -> None:
    plan = {"seeds": [1, 2], "model": "tiny", "data": "sample", "columns": [{"task": "samsum"}]}
    records = [make_record(seed=1, score=0.2)] * with_whole + [make_record(seed=2, score=0.9, **SMOKE)]
    table = fill(parse_table_spec("t", plan), records)
    (stat,) = (row.values["samsum"][0].stat for row in table.rows if row.label == "state_offset")
    assert (stat.mean if stat else None) == (pytest.approx(0.2) if with_whole else None)
    assert any("splits.limit" in note for note in table.notes)
