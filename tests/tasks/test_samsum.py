"""SAMSum from its three sources, with the official files' traps, and the choice of splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rouge_score import rouge_scorer

from ssm_tune.hub.download import HubFiles
from ssm_tune.tasks import samsum
from ssm_tune.tasks.base import Dataset, Example, Roles, load_task, make_dataset
from ssm_tune.tasks.samsum import COUNTS, HUB_COUNTS, SAMSum
from ssm_tune.tasks.splits import hold_out_validation
from ssm_tune.utils.errors import UserError

TASK = load_task({"_target_": "ssm_tune.tasks.samsum.SAMSum", "name": "samsum", "hub": "some/one", "revision": None})
ROW = {"id": "13818513", "summary": "Amanda baked cookies.", "dialogue": "Amanda: I baked  cookies.\r\nJerry: Sure!"}


def rows(count: int) -> list[dict[str, str]]:
    return [ROW | {"id": str(number)} for number in range(count)]


def write(folder: Path, **splits: Any) -> dict[str, Any]:
    standard: dict[str, Any] = {"train": rows(30), "val": rows(4), "test": rows(5)}
    for split, content in (standard | splits).items():
        (folder / f"{split}.json").write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return {"source": "local", "path": str(folder), "check": "off", "name": None}


def test_texts_are_kept_to_the_byte(tmp_path: Path) -> None:
    empty = ROW | {"id": "13828807", "dialogue": ""}
    dataset = TASK.load(write(tmp_path, train=[ROW, empty]), "paper")
    first, second = dataset.splits["train"]
    assert first.prompt == "Amanda: I baked  cookies.\r\nJerry: Sure!###"
    assert first.target == "Amanda baked cookies."
    assert second.prompt == "###"
    assert dataset.name == tmp_path.name
    assert not dataset.published


def test_published_counts_are_checked_and_a_stand_in_must_be_accepted(tmp_path: Path) -> None:
    data = write(tmp_path)
    with pytest.raises(UserError, match=r"train rows 30 instead of 14,732, val rows 4 .* add data\.check=off"):
        TASK.load(data | {"check": "counts"}, "paper")
    official = {split: rows(COUNTS[f"{split} rows"]) for split in ("train", "val", "test")}
    dataset = TASK.load(write(tmp_path, **official) | {"check": "counts"}, "paper")
    assert (dataset.name, dataset.published) == ("samsum", True)
    assert TASK.load(data | {"name": "dialogsum"}, "paper").name == "dialogsum"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"id": "1",\n "summary": "x"\n "dialogue": "y"}]', r"train\.json, line 3: not valid JSON"),
        ("{}", r"train\.json, line 1: expected a JSON list"),
        (
            [ROW, ROW | {"id": "7", "summary": None}],
            r"line 7, entry 2: expected an object with the texts id, dialogue, summary",
        ),
        ([ROW, "text"], "line 7, entry 2: expected an object"),
        ([], "empty list"),
        ([ROW, ROW], "duplicate id '13818513'"),
    ],
)
def test_malformed_files_are_named_with_their_place(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        TASK.load(write(tmp_path, train=content), "paper")


def test_missing_and_misencoded_files_are_named(tmp_path: Path) -> None:
    data = write(tmp_path)
    (tmp_path / "val.json").write_bytes('[{"id": "ü"}]'.encode("latin-1"))
    with pytest.raises(UserError, match=r"val\.json is not UTF-8 \(byte 9\)"):
        TASK.load(data, "standard")
    (tmp_path / "val.json").unlink()
    with pytest.raises(UserError, match=r"val\.json is missing: .* train\.json, val\.json, test\.json"):
        TASK.load(data, "standard")


def test_the_hubs_missing_dialogue_is_read_as_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def dataset_files(repo: str, revision: str | None, patterns: list[str]) -> HubFiles:
        asked.append((repo, revision, patterns))
        return HubFiles(repo, "f" * 40, {pattern: [Path(pattern)] for pattern in patterns})

    def read_table(paths: list[Path], columns: tuple[str, ...]) -> list[dict[str, Any]]:
        assert columns == ("id", "dialogue", "summary")
        split = {"validation": "val"}.get(paths[0].stem, paths[0].stem)
        return [*rows(HUB_COUNTS[f"{split} rows"] - 1), ROW | {"dialogue": None}]

    monkeypatch.setattr(samsum, "dataset_files", dataset_files)
    monkeypatch.setattr(samsum, "read_table", read_table)
    hub = {"source": "hub", "path": None, "check": "counts", "name": None}
    dataset = TASK.load(hub, "paper")
    assert dataset.published
    assert dataset.splits["val"][-1].prompt == "###"
    assert dataset.origin == {"hub": "some/one", "commit": "f" * 40}
    assert asked == [("some/one", None, ["train.csv", "validation.csv", "test.csv"])]

    monkeypatch.setattr(samsum, "read_table", lambda *_: rows(3))
    with pytest.raises(UserError, match=r"some/one is not .* train rows 3 instead of 14,731.* task\.revision=COMMIT"):
        TASK.load(hub, "paper")
    monkeypatch.setattr(samsum, "read_table", lambda *_: [ROW | {"summary": None}])
    with pytest.raises(UserError, match=r"train\.csv: the row with id 13818513 lacks an id or a summary"):
        TASK.load(hub, "paper")


def test_real_dialogues_in_samsums_layout(shared: Path) -> None:
    folder = shared / "data" / "dialogsum_samsum_layout"
    data = {"source": "local", "path": str(folder), "check": "counts", "name": None}
    with pytest.raises(
        UserError, match=r"train rows 650 instead of 14,732, val rows 100 .*, test rows 250 instead of 819"
    ):
        TASK.load(data, "paper")
    dataset = TASK.load(data | {"check": "off"}, "paper")
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {
        "train": 650,
        "val": 100,
        "test": 250,
    }
    assert dataset.name == "dialogsum_samsum_layout"


def small() -> Dataset:
    def examples(prefix: str, count: int) -> list[Example]:
        return [Example(f"{prefix}{number}", "p", "t", ("t",)) for number in range(count)]

    splits = {"train": examples("a", 25), "val": examples("b", 3), "test": examples("c", 3)}
    return make_dataset("x", False, splits, "rougeL", ("rougeL",))


def test_roles_under_either_protocol() -> None:
    assert TASK.roles("paper", small(), None, None) == Roles("train", "test", "test")
    assert TASK.roles("paper", small(), None, None).selected_on_report
    assert TASK.roles("standard", small(), None, None) == Roles("train", "val", "test")
    with pytest.raises(UserError, match="would both pick the epoch and be reported"):
        TASK.roles("standard", small(), "test", None)
    with pytest.raises(UserError, match="no split 'train' to use"):
        TASK.roles("paper", small(), "train", None)


def test_without_a_test_split_part_of_train_selects() -> None:
    full = small()
    dataset = make_dataset("x", False, {split: full.splits[split] for split in ("train", "val")}, "rougeL", ())
    assert TASK.roles("standard", dataset, None, None) == Roles("train", "carved", "val")
    carved = hold_out_validation(dataset)
    assert len(carved.splits["carved"]) == 2
    train, aside = ({e.id for e in carved.splits[name]} for name in ("train", "carved"))
    assert train | aside == {e.id for e in dataset.splits["train"]}
    assert not train & aside
    assert hold_out_validation(dataset).splits["carved"] == carved.splits["carved"]


def test_scores_are_rouge_of_references_as_they_come_back_from_the_tokenizer() -> None:
    examples = [Example("1", "p", "t", ("I do n't know .",)), Example("2", "p", "t", ("Café, yes",))]
    outputs = ["I don't know.", "Cafe\u0301 yes"]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    expected = [
        scorer.score(reference, output)["rougeL"].fmeasure
        for reference, output in zip(["I don't know.", "Café, yes"], ["I don't know.", "Café yes"], strict=True)
    ]
    assert expected[0] == 1.0
    scored = TASK.score(outputs, examples)
    assert scored.values["rougeL"] == pytest.approx(sum(expected) / 2, abs=1e-12)
    assert [one["rougeL"] for one in scored.statistics] == pytest.approx(expected)
    assert "n=2" in TASK.signatures(examples)["rouge"]


def test_the_sample_splits_have_the_tasks_columns() -> None:
    assert isinstance(TASK, SAMSum)
    dataset = TASK.load({"source": "sample", "path": None, "check": "counts", "name": None}, "standard")
    assert dataset.name == "sample"
    assert set(dataset.splits) == {"train", "val", "test"}
