"""The paper's grid: the published sizes, and hours that add up."""

from __future__ import annotations

import json

import pytest

from benchmarks import paper_grid
from benchmarks.models import SIZES
from ssm_tune.config.compose import compose
from ssm_tune.config.groups import benchmarks, names
from ssm_tune.planning import profiling
from ssm_tune.tasks.samsum import COUNTS


def test_the_papers_grid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SIZES, "mamba_130m", (16, 1, 50_280))
    monkeypatch.setattr(profiling, "SECONDS", 0.0)
    monkeypatch.setattr(profiling, "BLOCKS", 1)
    arguments = "--task glue_cola --method lora --method prompt --format json"
    assert paper_grid.main(arguments.split()) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["rows"]
    assert [row["steps"] for row in rows] == [21_380, 21_380]
    assert [row["filled"] for row in rows] == ["ad", "acd"]
    assert rows[0]["official_step_ms"] == 110.3
    assert rows[0]["official_train_hours"] == pytest.approx(21_380 * 110.3 / 3.6e6)
    assert all(row["hours"] > 0 for row in rows)
    assert "published methods: 1 runs" in captured.err


def test_the_papers_grid_has_all_tasks_with_their_published_sizes() -> None:
    assert set(paper_grid.TASKS) == set(benchmarks())
    for name, size in paper_grid.TASKS.items():
        config = compose([f"task={name}", "method=lora"])
        assert (config.model["name"], config.train.epochs) == (size.model, size.epochs)
        if "parts" in config.task:
            rows = {"train": 0, "val": 0}
            for part in config.task["parts"]:
                rows[part["split"]] += part["rows"]
            assert (size.examples, size.evaluated) == (rows["train"], rows["val"])
        for method in names("method"):
            hours = paper_grid.official(name, method)["official_hours"]
            assert hours > 0
    samsum = paper_grid.TASKS["samsum"]
    assert (samsum.examples, samsum.evaluated) == (COUNTS["train rows"], COUNTS["test rows"])


def test_batches_are_those_of_the_official_configurations() -> None:
    assert paper_grid.work_of("samsum", "initial_state", False, False).steps == 73_660  # two examples a batch
    assert paper_grid.work_of("samsum", "lora", False, False).steps == 36_830
