"""``ssm-tune evaluate``: a finished adapter scored again, and on other data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.quick_runs import settings, write_data

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.records.record import read_record
from ssm_tune.utils.files import read_jsonl

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify")
    write_data(folder / "data.jsonl", 60)
    assert main(settings(folder, "lora", "train.max_steps=20", "train.epochs=5", "frozen=false")) == 0
    (record,) = folder.rglob("record.json")
    return record.parent


def evaluated(capsys: Capture, *arguments: str | Path) -> dict[str, Any]:
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_runs_own_split_gives_the_records_scores_and_predictions(run: Path, tmp_path: Path, capsys: Capture) -> None:
    found = evaluated(capsys, run, "--predictions", tmp_path / "predictions.jsonl")
    record = read_record(run)
    best = record["metrics"]["best"]
    assert best is not None
    assert found["values"] == best["report"]
    assert (found["data_hash"], found["split"]) == (record["hashes"]["data"], "test")
    assert read_jsonl(tmp_path / "predictions.jsonl") == read_jsonl(run / "predictions.jsonl.gz")
    assert main(["evaluate", str(run / "record.json")]) == 0
    assert f"accuracy               {best['report']['accuracy']:.8f}" in capsys.readouterr().out


def test_all_lines_of_another_file_are_scored_with_the_runs_labels(run: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = [{"text": f"the grey house, number {n}", "label": "y"} for n in range(7)]  # too few to cut, and one label
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluated(capsys, run, "task=classify", f"data.path={tmp_path / 'other.jsonl'}")
    assert (found["n"], found["split"], found["data"]) == (7, "all", "other")
    assert main(["generate", "--adapter", str(run), "--prompts", str(tmp_path / "other.jsonl"), "--json"]) == 0
    answers = [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()]
    assert found["values"]["accuracy_among_labels"] == pytest.approx(answers.count("y") / 7)

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "test.jsonl").write_text((tmp_path / "other.jsonl").read_text())
    again = evaluated(capsys, run, f"data.root={tmp_path}", "data.path=folder")
    assert (again["split"], again["values"]) == ("test", found["values"])


def test_a_split_of_the_runs_data_can_be_named(run: Path, capsys: Capture) -> None:
    found = evaluated(capsys, run, "--split", "val")
    best = read_record(run)["metrics"]["best"]
    assert best is not None
    assert found["values"] == best["selection"]


def test_an_adapter_saved_in_python_is_scored_once_model_and_task_are_named(tmp_path: Path, capsys: Capture) -> None:
    adapter = ssm_tune.attach(ssm_tune.from_pretrained("tiny"), "lora", rank=2)
    adapter.save(tmp_path / "saved")
    (tmp_path / "texts.jsonl").write_text('{"input": "Say a", "target": "a"}\n')
    line = [tmp_path / "saved", "task=text2text", f"data.path={tmp_path / 'texts.jsonl'}"]
    found = evaluated(capsys, *line, "--model", "tiny", "decode.max_new_tokens=3", "decode.num_beams=1")
    assert found["n"] == 1
    assert "exact_match" in found["values"]
    for words, said in (
        (line, "add --model"),
        ([tmp_path / "saved", "model=tiny"], "add task=TASK"),
        ([tmp_path / "saved", "model=tiny", "task=glue_rte"], "on which data?"),
    ):
        assert main(["evaluate", *map(str, words)]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.epochs=2"], "settings of task, data, model, decode, protocol, device are taken here"),
        (["data.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["--split", "dev"], "has no split 'dev'"),
        (["--predictions", __file__], "exists already"),
        (["task=glue_rte2"], "no task 'glue_rte2'"),
        (["protocol=paper"], "leave protocol=standard"),
        (["model.path=x"], "model=local"),
    ],
)
def test_what_cannot_be_scored_is_one_line(words: list[str], said: str, run: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(run), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_record_without_its_adapter_is_told(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "record.json").write_bytes((run / "record.json").read_bytes())
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "ssm-tune method=" in capsys.readouterr().err
