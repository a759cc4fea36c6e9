"""Planned tables, their files, and the paired bootstrap, against plain arithmetic and scipy."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.make_records import make_record
from scipy import stats

from ssm_tune.commands import table as command
from ssm_tune.records.record import find_records, references_sha256, write_record
from ssm_tune.reporting import build
from ssm_tune.reporting.bootstrap import Sums, paired_bootstrap, sums
from ssm_tune.reporting.export_formats import latex
from ssm_tune.reporting.planned_table import fill
from ssm_tune.reporting.published import read_published
from ssm_tune.reporting.render import markdown, text_table
from ssm_tune.reporting.table_spec import parse_table_spec
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl, write_jsonl

PLAN = {"seeds": [1, 2], "model": "tiny", "data": "sample", "columns": [{"task": "samsum"}], "average_rank": True}


@pytest.mark.parametrize(
    "change",
    [
        {"cell__method_options": {"rank": 4}},
        {"cell__protocol": "paper"},
        {"cell__data": "other"},
        {"cell__seed": 9},
        {"hashes__data": "e" * 64},
        {"config__train__epochs": 3},
        {"status": "diverged"},
    ],
    ids=str,
)
def test_what_does_not_belong_is_in_no_mean(change: dict[str, Any]) -> None:
    stranger = make_record(**{"seed": 3, "score": 0.9, "cell__seed": 3} | change)
    records = [make_record(seed=1, score=0.2), make_record(seed=2, score=0.3), stranger]
    for order in itertools.permutations(records):
        table = fill(parse_table_spec("t", PLAN | {"seeds": [1, 2, 3]}), order)
        row = next(row for row in table.rows if row.label == "state_offset")
        value = row.values["samsum"][0]
        assert value.stat is not None
        assert (value.stat.mean, value.seeds) == (pytest.approx(0.25), (1, 2))


def test_a_stand_in_never_fills_a_published_column() -> None:
    plan = PLAN | {"data": "hub"}
    assert fill(parse_table_spec("t", plan), [make_record(seed=1, cell__protocol="paper", cell__data="sample")]).empty
    assert not fill(
        parse_table_spec("t", plan), [make_record(seed=1, cell__protocol="paper", cell__data="samsum")]
    ).empty


def store(results: Path, records: list[Any]) -> None:
    for index, record in enumerate(records):
        folder = results / "runs" / record["cell"]["task"] / f"run-{index}"
        write_record(folder, record)
        write_jsonl(folder / "steps.jsonl.gz", [{"step": n, "loss": 3 / n} for n in range(1, 50)])


def test_files_are_the_same_bytes_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [make_record(m, s, 0.2 + s / 1e5, hashes__data="d" * 64) for m in ("lora", "bitfit") for s in (42, 1042)]
    for record in records:
        record["config"] |= {"train": {"epochs": 1, "max_steps": 70}, "decode": {"num_beams": 1}}  # as the table has it
        if record["cell"]["method"] == "lora":
            record["cell"]["method_options"] = {"rank": 8, "alpha": 8, "dropout": 0.1}
    store(tmp_path, records)
    arguments = ["--results", str(tmp_path)]
    assert command.main([*arguments, "--write"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.suffix for path in before} >= {".md", ".tex", ".csv", ".png", ".svg"}
    assert command.main([*arguments, "--write"]) == 0
    assert "0 of them changed" in capsys.readouterr().out
    found, _ = find_records(tmp_path)
    assert build.build(found[::-1]).files["tables/tiny.md"] == before[tmp_path / "tables" / "tiny.md"]
    assert command.main([*arguments, "--check"]) == 0
    (tmp_path / "tables" / "tiny.tex").write_text("another")
    assert command.main([*arguments, "--check"]) == 1
    assert "tiny.tex is not what the records give" in capsys.readouterr().out


def test_records_of_one_cell_that_disagree_are_named(tmp_path: Path) -> None:
    store(tmp_path, [make_record() | {"cell_hash": "a"}, make_record(score=0.3) | {"cell_hash": "a"}])
    with pytest.raises(UserError, match=r"disagree: .*run-0.*run-1"):
        command.main(["--results", str(tmp_path), "--write"])
    assert not (tmp_path / "tables").exists()


def published(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.yaml", "t: {state_offset: {samsum: {rougeL: 20.5}}}"), ("p.yaml", "t: {state_offset: {samsum: 20.5}}"),
     ("p.csv", "table,method,task,metric,value\nt,state_offset,samsum,,20.5\n")],
    ids=["yaml", "without a metric", "csv"],
)  # fmt: skip
def test_published_values_stand_beside_ours(name: str, text: str, tmp_path: Path) -> None:
    table = fill(parse_table_spec("t", PLAN), [make_record(seed=1, score=0.25), make_record(seed=2, score=0.25)])
    shown = markdown(text_table(table, read_published(published(tmp_path, name, text))))
    row = next(line for line in shown.splitlines() if line.startswith(r"| state\_offset |"))
    assert "25.00" in row
    assert "20.50" in row
    assert "+4.50" in row
    assert f"published: from {name}, in points" in shown


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("p.yaml", "t: {lorra: {samsum: 1}}", "has no row 'lorra'"),
     ("p.yaml", "t: {lora: {dart: 1}}", "has no column 'dart'"),
     ("p.yaml", "t: {lora: {samsum: {meteor: 1}}}", "does not show 'meteor'"),
     ("p.yaml", "t: {lora: {samsum: much}}", "'much' is no number of points"),
     ("p.yaml", "t: {lora: {samsum: 4210}}", "is no number of points"),
     ("p.yaml", "t: [1]", "must hold names with values"),
     ("p.yaml", "{", "is not yaml"),
     ("p.csv", "table,method,value\nt,lora,1\n", "no task there"),
     ("p.csv", "table,method,task,value\nt,lora,samsum,1\nt,lora,samsum,2\n", "stands there twice"),
     ("p.csv", "table,method,task,value\n", "holds no value")],
)  # fmt: skip
def test_what_is_wrong_in_published_values_is_named(name: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_published(published(tmp_path, name, text)).of(fill(parse_table_spec("t", PLAN), [make_record(seed=1)]))
    assert name in str(caught.value)


def test_interrupted_writing_leaves_whole_files_and_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, [make_record("lora", s) for s in (42, 1042)])
    made = build.build(find_records(tmp_path)[0], pictures=False)
    replace, calls = os.replace, 0

    def interrupted(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.write(tmp_path, made)
    there = [path for folder in ("tables", "figures") for path in (tmp_path / folder).glob("*")]
    assert [path.read_bytes() for path in there] == [made.files[f"tables/{there[0].name}"]]
    assert build.differences(tmp_path, made)
    assert len(build.write(tmp_path, made)) == len(made.files) - 1
    assert not build.differences(tmp_path, made)


def test_no_records_no_files_and_that_is_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--results", str(tmp_path), "--check"]) == 0
    assert "0 files of tables and figures are current" in capsys.readouterr().out


def test_latex_escapes_and_counts_its_columns() -> None:
    text = latex(text_table(fill(parse_table_spec("t", PLAN), [make_record(seed=1), make_record(seed=2)])))
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count(" & ") for line in rows} == {3}
    assert r"state\_offset" in text


def test_compressed_rows_are_the_same_bytes_and_damage_is_named(tmp_path: Path) -> None:
    rows = [{"id": str(n), "output": "x" * n} for n in range(50)]
    one = write_jsonl(tmp_path / "a.jsonl.gz", rows).read_bytes()
    assert write_jsonl(tmp_path / "b.jsonl.gz", rows).read_bytes() == one
    assert read_jsonl(tmp_path / "a.jsonl.gz") == rows
    for cut in (0, 5, len(one) // 2, len(one) - 1):
        (tmp_path / "a.jsonl.gz").write_bytes(one[:cut])
        if cut:
            with pytest.raises(UserError, match=r"a\.jsonl\.gz is cut off"):
                read_jsonl(tmp_path / "a.jsonl.gz")


def means(values: list[float]) -> Sums:
    return sums([{"statistics": {"m": value}, "references_sha256": ""} for value in values], "m")


def test_the_interval_is_scipys() -> None:
    rng = random.Random(0)
    a = [rng.random() for _ in range(80)]
    b = [x - 0.05 + rng.gauss(0, 0.1) for x in a]
    ours = paired_bootstrap([means(a)], [means(b)])
    theirs = stats.bootstrap(
        (a, b), lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis), paired=True, method="percentile",
        n_resamples=10_000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.002), pytest.approx(theirs.high, abs=0.002))
    assert ours == paired_bootstrap([means(a)], [means(b)])


def test_matthews_and_f1_are_scikit_learns() -> None:
    from sklearn.metrics import f1_score, matthews_corrcoef

    rng = random.Random(1)
    labels, answers = ([rng.choice("01") for _ in range(60)] for _ in range(2))
    rows = [
        {"statistics": {"correct": float(x == y), "outside": 0.0}, "references_sha256": references_sha256((x,))}
        for x, y in zip(labels, answers, strict=True)
    ]
    assert sums(rows, "matthews").whole == pytest.approx(matthews_corrcoef(labels, answers))
    assert sums(rows, "f1").whole == pytest.approx(f1_score(labels, answers, pos_label="1"))
