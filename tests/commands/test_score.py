"""Re-scoring stored predictions: a synthetic run, a task that is not one of ours, and every way to be refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.hostile_texts import HOSTILE
from helpers.make_records import make_record
from rouge_score import rouge_scorer

from ssm_tune.commands import score as command
from ssm_tune.metrics import rouge as metric
from ssm_tune.metrics.rouge import rouge, rouge_scored, rouge_signature
from ssm_tune.records.record import read_record, references_sha256, write_record
from ssm_tune.tasks import base
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import write_jsonl

EXAMPLES = [
    base.Example(id=name, prompt="", target=text, references=(text,))
    for name, text in (("a", "Ann is late."), ("b", "Bob baked a cake."), ("c", "They meet at noon."))
]
OUTPUTS = {
    "predictions-frozen.jsonl": ["Ann", "the", "noon"],
    "predictions.jsonl": ["Ann is late", "Bob has a cake", "They meet"],
    "predictions-last.jsonl": ["Ann is here", "Bob has cake", "They met"],
}


class FakeTask:
    def load(self, data: dict[str, Any], protocol: str) -> Any:
        return SimpleNamespace(name="fake", splits={"test": EXAMPLES}, hash=data["hash"])

    def score(self, outputs: Sequence[str], examples: Sequence[base.Example]) -> base.Scored:
        return base.Scored(*rouge_scored(outputs, [example.references for example in examples]))

    def signatures(self, examples: Sequence[base.Example]) -> dict[str, str]:
        return {"rouge": rouge_signature(len(examples))}


@pytest.fixture(autouse=True)
def fake_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric, "BOOTSTRAP_RESAMPLES", 20)  # seeded all the same, and fast
    monkeypatch.setattr(base, "load_task", lambda section: {"fake": FakeTask()}[section["name"]])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    record = make_record(config={"task": {"name": "fake"}, "data": {"hash": "d" * 64}})
    for name, outputs in OUTPUTS.items():
        write_jsonl(folder / name, (row(*pair) for pair in zip(EXAMPLES, outputs, strict=True)))
    metrics = record["metrics"]
    references = [example.references for example in EXAMPLES]
    metrics["frozen"]["values"] = rouge(OUTPUTS["predictions-frozen.jsonl"], references)
    metrics["best"]["report"] = rouge(OUTPUTS["predictions.jsonl"], references)
    metrics["last"]["report"] = rouge(OUTPUTS["predictions-last.jsonl"], references)
    write_record(folder, record)
    return folder


def row(example: base.Example, output: str) -> dict[str, Any]:
    scores = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"]).score(example.target, output)
    return {
        "id": example.id,
        "output": output,
        "statistics": {name: score.fmeasure for name, score in scores.items()},
        "references_sha256": references_sha256(example.references),
    }


def edit_record(folder: Path, **changes: Any) -> None:
    record: Any = read_record(folder)
    for name, value in changes.items():
        *path, last = name.split("__")
        inner = record
        for key in path:
            inner = inner[key]
        inner[last] = value
    write_record(folder, record)


def edit_rows(path: Path, edit: Any) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, edit(rows) or rows)


def report(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["", "record.json"], ids=["folder", "file"])
def test_an_untouched_run_is_equal(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(run / name)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "equal"
    signatures = FakeTask().signatures(EXAMPLES)
    assert f"rouge: {signatures['rouge']}" in out.splitlines()
    assert command.main([str(run / name), "--json"]) == 0
    found = report(capsys)
    assert found["signatures"] == signatures
    assert found["equal"]
    assert [(one["predictions"], one["metric"]) for one in found["metrics"]] == [
        (which, f"{kind}{suffix}")
        for which in ("frozen", "best", "last")
        for suffix in ("", "_bootstrap")
        for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")
    ]


def test_the_order_of_the_lines_does_not_matter(run: Path) -> None:
    edit_rows(run / "predictions.jsonl", lambda rows: rows[::-1])
    assert command.main([str(run)]) == 0


def test_last_is_best_where_they_are_one_epoch(run: Path) -> None:
    record = read_record(run)
    (run / "predictions-last.jsonl").unlink()
    edit_record(run, metrics__last=record["metrics"]["best"])
    assert command.main([str(run)]) == 0


@pytest.mark.parametrize(("shift", "status"), [(1e-13, 0), (1e-11, 1), (-0.1, 1)])
@pytest.mark.parametrize("metric", ["rougeL", "rouge2_bootstrap"])
def test_a_changed_metric_is_found(
    run: Path, metric: str, shift: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    value = read_record(run)["metrics"]["best"]["report"][metric]  # type: ignore[index]
    edit_record(run, **{f"metrics__best__report__{metric}": value + shift})
    assert command.main([str(run), "--json"]) == status
    unequal = [one for one in report(capsys)["metrics"] if abs(one["stored"] - one["recomputed"]) > 1e-12]
    assert [(one["predictions"], one["metric"]) for one in unequal] == [("best", metric)] * status


def test_a_metric_on_one_side_only_is_a_difference(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_record(run, metrics__best__report__meteor=0.5)
    assert command.main([str(run)]) == 1
    assert "meteor" in capsys.readouterr().out


def test_changed_outputs_and_statistics_are_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(rows: Any) -> None:
        rows[1]["output"] = "Bob baked a cake."

    edit_rows(run / "predictions.jsonl", change)
    assert command.main([str(run), "--json"]) == 1
    assert report(capsys)["examples_that_differ"] == {"frozen": [], "best": ["b"], "last": []}

    def forge(rows: Any) -> None:
        rows[0]["statistics"]["rougeL"] = 1.0
        rows[2]["statistics"] = {}

    edit_rows(run / "predictions-frozen.jsonl", forge)
    assert command.main([str(run)]) == 1
    out = capsys.readouterr().out
    assert "frozen: the stored statistics of 2 examples differ, the first is 'a'" in out
    assert out.splitlines()[-1] == "different"


def without(field: str) -> Any:
    return lambda rows: [{key: value for key, value in rows[0].items() if key != field}, *rows[1:]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda rows: rows[:1], r"no prediction for 'b' of test \(2 missing\)"),
        (lambda rows: [*rows, rows[0]], "line 4: the id 'a' stands there twice"),
        (lambda rows: [*rows, rows[0] | {"id": "z"}], "line 4: the id 'z' is not in the split test"),
        (lambda rows: [rows[0] | {"references_sha256": "0" * 64}, *rows[1:]], "'a' was scored against other"),
        (lambda rows: [rows[0] | {"output": None}, *rows[1:]], "line 1: 'output' is NoneType, expected str"),
        (without("statistics"), "line 1: no field 'statistics'"),
        (without("references_sha256"), "line 1: no field 'references_sha256'"),
    ],
)
@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_predictions_that_do_not_fit_are_refused(run: Path, name: str, edit: Any, message: str) -> None:
    edit_rows(run / name, edit)
    with pytest.raises(UserError, match=message) as caught:
        command.main([str(run)])
    assert str(run / name) in str(caught.value)


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_missing_predictions_are_refused(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"{name}\.gz does not exist"):
        command.main([str(run)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hashes__data": "e" * 64}, "hash dddddddddddd now, eeeeeeeeeeee in the record"),
        ({"splits__report": "dev"}, "reports on 'dev', and fake has no such split"),
        ({"config": {"task": {"name": "fake"}}}, "no section 'data'"),
    ],
)
def test_other_data_are_refused(run: Path, changes: dict[str, Any], message: str) -> None:
    edit_record(run, **changes)
    with pytest.raises(UserError, match=message):
        command.main([str(run)])


def test_a_run_that_diverged_before_its_first_score(run: Path) -> None:
    edit_record(run, status="diverged", metrics__best=None, metrics__last=None, metrics__frozen=None)
    with pytest.raises(UserError, match="diverged before its first score"):
        command.main([str(run)])


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        command.main([str(tmp_path / "none")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one run folder, or --task"),
        (["a", "b"], "one run folder"),
        (["a", "--predictions", "b"], "score --predictions needs --task"),
        (["--gold", "b"], "score --gold needs --task"),
    ],
)
def test_arguments_that_say_too_little(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.main(arguments)


def test_where_local_data_lie_now(run: Path, tmp_path: Path) -> None:
    data = {"hash": "d" * 64, "source": "local", "path": "data/gone"}
    edit_record(run, config={"task": {"name": "fake"}, "data": data})
    with pytest.raises(UserError, match=r"data\.path=data/gone, are not there: add --data-path DIR"):
        command.main([str(run)])
    assert command.main([str(run), "--data-path", str(tmp_path)]) == 0
    edit_record(run, config={"task": {"name": "fake"}, "data": {"hash": "d" * 64, "source": "sample", "path": None}})
    assert command.main([str(run)]) == 0
    with pytest.raises(UserError, match=r"--data-path: this run had no local data, but data=sample"):
        command.main([str(run), "--data-path", str(tmp_path)])


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_names_in_a_record_are_printed_as_they_are(text: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_record(run, cell__data=text, cell__model=text, cell__method=text)
    command.main([str(run)])
    printed = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in printed)
    assert len(printed.splitlines()) == 28  # a line for each number and for the signature, and none more
