"""The likeliest of the labels as the answer: against transformers in float64, and through record, score and compare."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.quick_runs import settings, write_data
from helpers.small_models import Silent
from sklearn.metrics import accuracy_score, matthews_corrcoef

import ssm_tune
from ssm_tune.cli import main
from ssm_tune.config.compose import compose
from ssm_tune.experiment.predict_and_score import predict_examples, score_outputs
from ssm_tune.experiment.state import EpochResult, RunState, pack, unpack
from ssm_tune.generation.predict import Outputs, Predictions, joined
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.pretrained import from_pretrained, save_transformers
from ssm_tune.records.record import read_record
from ssm_tune.reporting.run_tables import tables_from_records
from ssm_tune.reporting.table import BASE
from ssm_tune.tasks.base import Dataset, Example, Roles, Scored, Task, load_task
from ssm_tune.training.checkpoint import Checkpoint
from ssm_tune.utils.files import read_jsonl


@pytest.mark.slow
def test_the_scores_are_those_of_transformers_logits(tmp_path: Path) -> None:
    """As evaluation harnesses have it: of the labels the one with the highest log-likelihood after the prompt."""
    transformers = pytest.importorskip("transformers")
    config = compose(["method=lora", "task=glue_cola", "data=sample", "model=tiny"])
    task = load_task(config.task)
    examples = task.load(dataclasses.asdict(config.data), "standard").splits["val"][:40]
    model, tokenizer = from_pretrained("tiny"), ssm_tune.load_tokenizer("tiny")
    outputs = predict_examples(model, tokenizer, task, examples, DecodeSettings(), Silent(), "x")
    values = score_outputs(task, outputs, examples).scored.values

    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_transformers(model.config, weights, tokenizer, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    encode = transformers.AutoTokenizer.from_pretrained(tmp_path)
    labels = [encode(label)["input_ids"][0] for label in ("0", "1")]
    expected = []
    for example in examples:
        with torch.no_grad():
            logits = theirs(torch.tensor([encode(example.prompt)["input_ids"]])).logits[0, -1]
        chosen = logits.log_softmax(-1)[labels]
        assert (chosen[0] - chosen[1]).abs() > 1e-4  # no call is close
        expected.append(str(int(chosen.argmax())))
    assert outputs.likeliest == expected
    assert set(expected) == {"0", "1"}
    truth = [example.target for example in examples]
    assert values["matthews_among_labels"] == pytest.approx(matthews_corrcoef(truth, expected))
    assert values["matthews"] == -1.0  # by the protocol's rule: the model writes no label at all


def test_a_run_keeps_them_beside_the_protocols_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data.jsonl", 60)
    assert main(settings(tmp_path, "lora")) == 0
    shown = capsys.readouterr()
    assert "accuracy among labels" in shown.out
    (folder,) = (path.parent for path in tmp_path.rglob("record.json"))
    record = read_record(folder)
    assert record["headline"] == ["accuracy", "outside_labels"]
    base, best = record["metrics"]["frozen"], record["metrics"]["best"]
    assert base is not None
    assert best is not None
    for name, values in (("predictions-frozen", base["values"]), ("predictions", best["report"])):
        rows = read_jsonl(folder / f"{name}.jsonl.gz")
        right = [row["statistics"]["correct"] for row in rows if row["output"] == row["likeliest_label"]]
        assert {row["likeliest_label"] for row in rows} <= {"0", "1"}
        assert sum(right) / len(rows) == values["accuracy"]  # a label that is likeliest of all tokens is so of labels
        assert values["accuracy_among_labels"] >= values["accuracy"]
    assert "accuracy_among_labels" in best["selection"]

    assert main(["score", str(folder), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert "accuracy_among_labels" in {one["metric"] for one in scored["metrics"]}
    assert main(["compare", str(folder), str(folder), "--metric", "accuracy_among_labels", "--json"]) == 0
    (compared,) = json.loads(capsys.readouterr().out)["metrics"]
    assert compared["a"] == best["report"]["accuracy_among_labels"]

    # a record of an older version has no such metric, and the base model one row all the same
    older = json.loads(json.dumps(record))
    older["cell"]["seed"] = 7
    del older["metrics"]["frozen"]["values"]["accuracy_among_labels"]
    (table,) = tables_from_records([record, older])
    assert [row.method for row in table.rows].count(BASE) == 1


def test_the_shares_of_processes_are_woven_into_one() -> None:
    shares = [Outputs(["a", "d"], ["0", "1"]), Outputs(["b"], ["1"]), Outputs(["c"], ["0"])]
    assert joined(shares) == Outputs(["a", "b", "c", "d"], ["0", "1", "0", "1"])
    assert joined([Outputs(["a"]), Outputs([])]) == Outputs(["a"])
    assert joined([Outputs(["a"], ["0"]), Outputs([])]) == Outputs(["a"], ["0"])


def test_accuracy_is_counted_over_all_examples() -> None:
    config = compose(["method=lora", "task=glue_mnli", "data=sample", "model=tiny"])
    task = load_task(config.task)
    examples = task.load(dataclasses.asdict(config.data), "paper").splits["val"][:30]
    likeliest = [str(at % 3) for at in range(30)]
    scored = score_outputs(task, Outputs(["what"] * 30, likeliest), examples).scored
    plain = accuracy_score([example.target for example in examples], likeliest)
    assert scored.values["accuracy_among_labels"] == pytest.approx(plain)
    assert scored.values["accuracy"] == scored.values["paper_accuracy"] == 0.0
    assert not any(name.startswith("paper_") and name.endswith("among_labels") for name in scored.values)


def test_a_checkpoint_holds_the_likeliest_labels() -> None:
    predicting = {"val": Predictions({0: "x", 2: "1"}, 0, {0: ("0", 0.75), 2: ("1", 0.5)})}
    report = score_outputs(_Echo("echo"), Outputs(["a"], ["b"]), [Example("0", "", "b", ("b",))])
    best = EpochResult(1, 3, {"accuracy": 1.0}, {}, report)
    packed = pack(RunState(predicting=predicting, best=best, last=best))
    again = unpack(Checkpoint(json.loads(json.dumps(packed.values)), packed.tensors))
    assert again.predicting == predicting
    assert again.best == best


class _Echo(Task):
    """A task whose accuracy is the share of predictions that are the target."""

    mode = "classify"

    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        raise NotImplementedError

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> Scored:
        right = [float(one == example.target) for one, example in zip(predictions, examples, strict=True)]
        return Scored({"accuracy": sum(right) / len(right)}, [{"correct": one} for one in right])

    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        return {}

    def published_roles(self) -> Roles:
        raise NotImplementedError
