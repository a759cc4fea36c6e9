"""ssm-tune show: a run's examples in the terminal, with what the data hold and what was answered."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.quick_runs import settings, write_data

from ssm_tune.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    write_data(folder / "data.jsonl", 60)
    assert main(settings(folder, "bitfit", "device=cpu")) == 0
    (record,) = (folder / "results").glob("runs/*/*/record.json")
    return record.parent


@pytest.fixture
def shown(run: Path, capsys: Capture) -> Callable[..., dict[str, Any]]:
    def call(*flags: str) -> dict[str, Any]:
        assert main(["show", str(run), "--json", *flags]) == 0
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    return call


def test_each_example_has_its_input_reference_output_and_mark(run: Path, shown: Callable[..., dict[str, Any]]) -> None:
    found = shown("--examples", "1000")
    given = [json.loads(line) for line in (run.parents[3] / "data.jsonl").read_text().splitlines()]
    labels = {row["text"]: row["label"] for row in given}
    rows = [json.loads(line) for line in gzip.decompress((run / "predictions.jsonl.gz").read_bytes()).splitlines()]
    assert found["count"] == len(found["examples"]) == len(rows)
    digits = {"n": "0", "y": "1"}
    for one, row in zip(found["examples"], rows, strict=True):
        text = max((text for text in labels if text in one["input"]), key=len)
        assert one["references"] == [digits[labels[text]]]
        assert one["output"] == row["output"]
        assert one["right"] is (one["output"] == one["references"][0])
    accuracy = sum(one["right"] for one in found["examples"]) / found["count"]
    assert accuracy == found["metrics"]["best"]["report"]["accuracy"]


def test_wrong_ones_alone_and_no_more_than_asked_for(run: Path, shown: Callable[..., dict[str, Any]]) -> None:
    every = shown("--examples", "1000")["examples"]
    wrong = shown("--examples", "1000", "--wrong")["examples"]
    assert wrong == [one for one in every if not one["right"]]
    assert len(shown("--examples", "2")["examples"]) == 2


def test_the_terminal_has_the_same_texts_and_the_command(run: Path, capsys: Capture) -> None:
    assert main(["show", str(run), "--examples", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("input") == 2
    assert "house, number" in out
    assert "ssm-tune method=bitfit task=classify" in out


def test_without_its_data_a_run_still_shows_what_it_answered(
    run: Path, shown: Callable[..., Any], capsys: Capture
) -> None:
    data = run.parents[3] / "data.jsonl"
    moved = data.rename(data.with_name("moved.jsonl"))
    try:
        found = shown("--examples", "1")
        assert found["examples"][0]["input"] is None
        assert found["examples"][0]["output"] is not None
        assert main(["show", str(run)]) == 0
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1
        assert "--data-path" in err
        assert shown("--data-path", str(moved))["examples"][0]["input"] is not None
    finally:
        moved.rename(data)


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
