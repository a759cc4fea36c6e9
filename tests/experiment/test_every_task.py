"""Every task of conf/task goes through a whole run on the sample world, and its predictions score the same again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssm_tune.cli import main
from ssm_tune.config.groups import benchmarks, names
from ssm_tune.records.record import read_record
from ssm_tune.tasks.base import OWN_WORDING, Task, load_task
from ssm_tune.utils.files import read_jsonl

TASKS = benchmarks()
OWN = sorted(set(names("task")) - set(TASKS))
QUICK = ["model=tiny", "train.max_steps=2", "decode.num_beams=1", "decode.max_new_tokens=3"]
PAPERS = {
    "glue_cola", "glue_mnli", "glue_mrpc", "glue_qnli", "glue_qqp", "glue_rte", "glue_sst2", "dart", "samsum", "spider"
}  # fmt: skip


def own_data(folder: Path) -> list[str]:
    """Lines that every task for data of one's own can read."""
    rows = [
        {"input": f"Anna: {n}?", "target": f"Anna asks {n}.", "text": f"Anna: {n}?", "label": n % 2} for n in range(40)
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data=local", f"data.path={path}"]


def test_the_papers_tasks_are_there() -> None:
    assert set(TASKS) >= PAPERS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "protocol"),
    [(task, protocol) for task in TASKS for protocol in ("paper", "standard")] + [(task, "standard") for task in OWN],
)
def test_a_run_and_its_score(
    task: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frozen = f"frozen={'true' if protocol == 'standard' else 'false'}"
    data = own_data(tmp_path) if task in OWN else ["data=sample"]
    assert main([f"task={task}", "method=state_offset_y", f"protocol={protocol}", frozen, *data, *QUICK]) == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("record: "))
    record = read_record(path)
    best = record["metrics"]["best"]
    assert best is not None
    assert record["primary_metric"] in best["report"]
    assert set(record["headline"]) <= set(best["report"])
    lowest = {"matthews": -1, "paper_matthews": -1, "matthews_among_labels": -1}
    assert all(lowest.get(name, 0) <= value <= 1 for name, value in best["report"].items())
    assert record["splits"]["selected_on_report"] == (protocol == "paper")
    assert record["signatures"]
    # the papers' tasks that begin with an instruction tell that it is not the official one
    assert (OWN_WORDING in record["notes"]) == ("instruction" in record["config"]["task"] and task in PAPERS)
    rows = read_jsonl(path.parent / "predictions.jsonl.gz")
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["statistics"] for row in rows)
    assert main(["score", str(path.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"]


@pytest.mark.parametrize("task", TASKS)
def test_the_same_outputs_carry_both_protocols_metrics(task: str) -> None:
    """What either protocol leads with can be computed from outputs of the other, where they share the examples."""
    from omegaconf import OmegaConf

    from ssm_tune.config.groups import conf_dir

    section = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / f"{task}.yaml"), resolve=False)["task"]  # type: ignore[index]
    made: Task = load_task(section)
    data = {"source": "sample", "path": None, "check": "counts", "name": None}
    datasets = {protocol: made.load(data, protocol) for protocol in ("paper", "standard")}
    leading = {one.primary for one in datasets.values()} | {name for one in datasets.values() for name in one.headline}
    for dataset in datasets.values():
        examples = dataset.splits["val"][:8]
        assert leading <= set(made.score([example.target for example in examples], examples).values)


def test_examples_that_the_protocol_finds_too_long_are_counted_and_left_out_again_when_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssm_tune.tasks import spider

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spider, "MAX_TOKENS", 150)
    assert main(["task=spider", "method=state_offset_y", "protocol=paper", "frozen=false", "data=sample", *QUICK]) == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1].removeprefix("record: "))
    record = read_record(path)
    left_out = record["left_out"]
    assert left_out["val"]
    assert left_out["train"]
    notes = " ".join(record["notes"])
    assert f"{len(left_out['val'])} of 120 examples of val are left out: longer than 150 tokens" in notes
    rows = read_jsonl(path.parent / "predictions.jsonl.gz")
    assert not {row["id"] for row in rows} & set(left_out["val"])
    assert len(rows) + len(left_out["val"]) == 120
    assert main(["score", str(path.parent), "--json"]) == 0
