"""Tasks for data of one's own: what is read, how it is cut, what is refused with its line, how it is scored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef

from ssm_tune.config.schema import DataConfig
from ssm_tune.metrics.exact_match import exact_match
from ssm_tune.tasks.classify import Classify
from ssm_tune.tasks.text2text import Text2Text
from ssm_tune.utils.errors import UserError


def text2text(instruction: str = "", metric: Any = "rougeL") -> Text2Text:
    return Text2Text("text2text", instruction, metric)


def classify(**options: Any) -> Classify:
    defaults = {"instruction": "", "labels": None, "answers": "digits", "metric": "accuracy", "positive": None}
    return Classify("classify", **defaults | options)


def own(path: Path) -> dict[str, Any]:
    return {"source": "local", "path": str(path), "check": "own", "name": None}


def written(path: Path, rows: list[Any]) -> dict[str, Any]:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return own(path)


PAIRS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(30)]
LABELLED = [{"text": f"text {n}", "label": "good" if n % 3 else "bad"} for n in range(40)]


def test_one_file_is_cut_the_same_way_each_time_and_goes_by_its_name(tmp_path: Path) -> None:
    data = written(tmp_path / "mine.jsonl", PAIRS)
    dataset = text2text("Answer:").load(data, "standard")
    assert (dataset.name, dataset.published, dataset.primary) == ("mine", False, "rougeL")
    sizes = {split: len(examples) for split, examples in dataset.splits.items()}
    assert sizes == {"train": 25, "val": 2, "test": 3}
    assert sorted(int(one.id) for examples in dataset.splits.values() for one in examples) == list(range(1, 31))
    example = next(one for one in dataset.splits["train"] if one.id == "7")
    assert (example.prefix, example.prompt, example.target) == ("Answer:\n", "question 6###", "answer 6")
    assert text2text("Answer:").load(data, "standard") == dataset
    roles = text2text().roles("standard", dataset, None, None)
    assert (roles.selection, roles.report) == ("val", "test")


@given(inputs=st.lists(st.integers(0, 12), min_size=24, max_size=80))
def test_lines_with_one_input_are_never_parted(tmp_path_factory: pytest.TempPathFactory, inputs: list[int]) -> None:
    rows = [{"input": f"question {number}", "target": f"answer {n}"} for n, number in enumerate(inputs)]
    data = written(tmp_path_factory.mktemp("own") / "a.jsonl", rows)
    # each cut takes whole inputs until it has a tenth; one is to be left, and ten lines for the second cut
    most = max(map(inputs.count, inputs))
    assume(len(set(inputs)) >= 4 and len(inputs) - (len(inputs) // 10 + most) >= 10)
    splits = text2text().load(data, "standard").splits
    prompts = [{example.prompt for example in examples} for examples in splits.values()]
    assert sum(map(len, prompts)) == len(set(inputs))


def test_a_folder_has_a_file_a_split(tmp_path: Path) -> None:
    for split, rows in (("train", PAIRS[:20]), ("test", PAIRS[20:])):
        written(tmp_path / f"{split}.jsonl", rows)
    dataset = text2text().load(own(tmp_path), "standard")
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {"train": 18, "val": 2, "test": 10}
    written(tmp_path / "val.jsonl", PAIRS[18:20])
    assert len(text2text().load(own(tmp_path), "standard").splits["train"]) == 20
    (tmp_path / "test.jsonl").unlink()
    dataset = text2text().load(own(tmp_path), "standard")
    assert list(dataset.splits) == ["train", "val"]
    assert text2text().roles("standard", dataset, None, None).selection == "carved"
    written(tmp_path / "dev.jsonl", PAIRS)
    with pytest.raises(UserError, match=r"dev\.jsonl is none of train\.jsonl"):
        text2text().load(own(tmp_path), "standard")


def test_several_targets_train_each_and_score_the_best(tmp_path: Path) -> None:
    rows = [{"id": f"n{n}", "input": f"q {n}", "targets": [f"one {n}", f"two {n}"]} for n in range(20)]
    task = text2text(metric=["exact_match", "bleu"])
    dataset = task.load(written(tmp_path / "a.jsonl", rows), "standard")
    assert len(dataset.splits["train"]) == 2 * (20 - len(dataset.splits["val"]) - len(dataset.splits["test"]))
    assert {one.id for one in dataset.splits["train"]} >= {"n1-0", "n1-1"} or len(dataset.splits["test"]) > 0
    examples = dataset.splits["test"]
    outputs = [" " + one.references[1] + "\n" for one in examples]
    scored = task.score(outputs, examples)
    assert scored.values["exact_match"] == scored.values["rougeL"] == 1.0
    assert dataset.headline == ("exact_match", "bleu")
    assert set(task.signatures(examples)) == {"rouge", "bleu", "sacrebleu", "exact_match"}
    assert "meteor" not in scored.values


def test_meteor_only_where_asked_makes_another_data_hash(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", PAIRS)
    asked = text2text(metric=["rougeL", "meteor_no_synonyms"])
    assert asked.load(data, "standard").hash != text2text().load(data, "standard").hash
    examples = asked.load(data, "standard").splits["val"]
    assert asked.score([one.target for one in examples], examples).values["meteor_no_synonyms"] > 0.9


@given(st.lists(st.tuples(st.text(max_size=4), st.lists(st.text(max_size=4), min_size=1, max_size=3)), min_size=1))
def test_exact_match_counts_what_python_finds_equal(pairs: list[tuple[str, list[str]]]) -> None:
    value, each = exact_match([output for output, _ in pairs], [texts for _, texts in pairs])
    expected = [any(output.strip() == text.strip() for text in texts) for output, texts in pairs]
    assert each == expected
    assert value == pytest.approx(sum(expected) / len(pairs))


BAD_PAIRS = [
    ([], "a.jsonl is empty"),
    (["{not json"], "a.jsonl line 1 is truncated or not JSON"),
    ([PAIRS[0], "[1]"], "a.jsonl line 2: expected a JSON object"),
    ([*PAIRS, {"input": "x"}], "a.jsonl line 31: no key 'target'; it has 'input'"),
    ([*PAIRS, {"target": "x"}], "a.jsonl line 31: no key 'input'"),
    ([*PAIRS, {"input": 5, "target": "x"}], "line 31: 'input' must be a text, got int"),
    ([*PAIRS, {"input": "x", "target": "x", "targets": ["x"]}], "line 31: it has both 'target' and 'targets'"),
    ([*PAIRS, {"input": "x", "targets": []}], "line 31: 'targets' must be a list"),
    ([*PAIRS, {"input": "x", "target": " "}], "line 31: a target is empty"),
    ([*PAIRS, {"input": "x", "target": "x<|endoftext|>"}], "line 31: 'target' holds <|endoftext|>"),
    ([{**PAIRS[0], "id": "a"}, {**PAIRS[1], "id": "a"}], "line 2: duplicate id 'a', first in line 1"),
    ([{**PAIRS[0], "id": None}], "line 1: 'id' must be a text or a whole number"),
    (PAIRS[:9], "9 training lines are too few to cut"),
]


@pytest.mark.parametrize(("rows", "said"), BAD_PAIRS, ids=[said[:40] for _, said in BAD_PAIRS])
def test_bad_lines_are_named(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        text2text().load(written(tmp_path / "a.jsonl", rows), "standard")
    assert "\n" not in str(raised.value)


def test_another_encoding_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"input": "café", "target": "a"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match="line 1 is not UTF-8"):
        text2text().load(own(tmp_path / "a.jsonl"), "standard")


def test_labels_become_digits_or_words(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", LABELLED)
    dataset = classify(instruction="Say. ").load(data, "standard")
    assert dataset.origin == {"answers": "0 for bad, 1 for good"}
    example = dataset.splits["train"][0]
    number = int(example.id) - 1
    assert example.prompt == f"Say. text {number}###"
    assert example.target == ("1" if number % 3 else "0")
    turned = classify(labels=["good", "bad"], answers=["yes", "no"]).load(data, "standard")
    assert turned.origin == {"answers": "yes for good, no for bad"}
    assert {one.target for one in classify(answers="words").load(data, "standard").splits["train"]} == {"good", "bad"}


def test_scores_are_scikit_learns(tmp_path: Path) -> None:
    task = classify(metric=["f1", "matthews", "accuracy"], positive="bad")
    examples = task.load(written(tmp_path / "a.jsonl", LABELLED), "standard").splits["train"]
    outputs = ["0" if n % 2 else "1" for n in range(len(examples))]
    labels, values = [one.target for one in examples], task.score(outputs, examples).values
    assert values["f1"] == pytest.approx(f1_score(labels, outputs, pos_label="0"))
    assert values["matthews"] == pytest.approx(matthews_corrcoef(labels, outputs))
    assert not [name for name in values if name.startswith("paper_")]
    assert task.score(["?"] * len(examples), examples).values["outside_labels"] == 1.0
    assert "positive class 0" in task.signatures(examples)["classification"]


def test_more_than_two_labels_and_two_texts(tmp_path: Path) -> None:
    rows = [{"text": f"a {n}", "text2": f"b {n}", "label": n % 3} for n in range(60)]
    data = written(tmp_path / "a.jsonl", rows)
    dataset = classify().load(data, "standard")
    assert dataset.splits["train"][0].prompt.endswith("###")
    assert dataset.splits["train"][0].prompt.count("###") == 2
    examples = dataset.splits["train"]
    assert classify().score([one.target for one in examples], examples).values["accuracy"] == 1.0
    with pytest.raises(UserError, match="f1 and matthews are for two labels, and these data have 3"):
        classify(metric="f1").load(data, "standard")
    with pytest.raises(UserError, match="line 61: no key 'text2', which other lines have"):
        classify().load(written(tmp_path / "b.jsonl", [*rows, {"text": "a", "label": 1}]), "standard")


def test_a_label_outside_the_set_is_named(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", LABELLED)
    written(tmp_path / "val.jsonl", [*LABELLED[:3], {"text": "x", "label": "ugly"}])
    written(tmp_path / "test.jsonl", LABELLED[:3])
    with pytest.raises(UserError, match=r"val\.jsonl line 4: the label 'ugly' is none of bad, good"):
        classify().load(own(tmp_path), "standard")
    data = written(tmp_path / "one.jsonl", LABELLED)
    for options, said in (
        ({"labels": ["good", "bad", "ugly"]}, "no line of the training part has the label 'ugly'"),
        ({"labels": ["good"]}, "task.labels lacks 'bad'"),
        ({"answers": ["a"]}, "task.answers names 1 for 2 labels"),
        ({"positive": "ugly"}, "task.positive: 'ugly' is none of the labels bad, good"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            classify(**options).load(data, "standard")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="line 41: 'label' must be a text or a whole number, got True"):
        classify().load(written(tmp_path / "c.jsonl", [*LABELLED, {"text": "x", "label": True}]), "standard")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: text2text(metric="rougeX"), "there is no 'rougeX'"),
        (lambda: text2text(metric=["bleu", "bleu"]), "a list of different names"),
        (lambda: text2text(metric=[]), "a list of different names"),
        (lambda: classify(labels="a"), "task.labels must be a list"),
        (lambda: classify(labels=["a", "a"]), "must name each once"),
        (lambda: classify(answers="letters"), "task.answers must be digits, words or a list"),
    ],
)
def test_settings_out_of_range(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        make()


def test_the_data_section_asks_for_a_path() -> None:
    for section in ({"source": "sample"}, {"source": "hub"}, {"source": "local"}):
        with pytest.raises(UserError, match=r"reads data of your own.*add data=local data\.path=FILE\.jsonl"):
            DataConfig(**section, check="own")
    assert DataConfig(source="hub", path="x", check="own").source == "local"


def test_the_papers_protocol_and_counts_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", PAIRS)
    with pytest.raises(UserError, match="protocol=paper repeats the official code"):
        text2text().load(data, "paper")
    with pytest.raises(UserError, match="have no published counts"):
        text2text().load(data | {"check": "counts"}, "standard")
    with pytest.raises(UserError, match="cannot go by the name 'text2text'"):
        text2text().load(written(tmp_path / "text2text.jsonl", PAIRS), "standard")
