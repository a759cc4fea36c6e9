"""DART in both official forms, from the hub and in the sample world, and its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.meteor_score import meteor_score
from omegaconf import OmegaConf

from ssm_tune.config.groups import conf_dir
from ssm_tune.hub.download import HubFiles
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks import dart
from ssm_tune.tasks.base import Example, Roles, load_task
from ssm_tune.tasks.dart import COUNTS, DART, OLD_TEST
from ssm_tune.utils.errors import UserError

LOADED = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / "dart.yaml"))
assert isinstance(LOADED, dict)
SECTION: dict[str, Any] = LOADED["task"]
SAMPLE = {"source": "sample", "path": None, "check": "counts", "name": None}
HUB = {"source": "hub", "path": None, "check": "counts", "name": None}
MARS = ["Mars Hill College", "JOINED", "1973"], ["Mars Hill College", "LOCATION", "Mars Hill, North Carolina"]
NAMES = {"train": "train", "val": "dev", "test": "test"}
Entries = list[tuple[list[list[str]], list[str]]]


def task_of(**options: Any) -> DART:
    task = load_task(SECTION | {"wordnet": "off"} | options)
    assert isinstance(task, DART)
    return task


def json_of(entries: Entries) -> list[dict[str, Any]]:
    return [
        {"tripleset": triples, "annotations": [{"source": "WikiSQL_lily", "text": text} for text in texts]}
        for triples, texts in entries
    ]


def write(folder: Path, check: str = "off", **splits: Any) -> dict[str, Any]:
    few = json_of([([*MARS], ["A school.", "It joined in 1973 ."]), ([MARS[0]], ["Another."])])
    for split, name in NAMES.items():
        content = splits.get(split, few)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"dart-v1.1.1-full-{name}.json").write_text(text)
    return {"source": "local", "path": str(folder), "check": check, "name": None}


def test_training_takes_every_reference_and_evaluation_every_entry(tmp_path: Path) -> None:
    dataset = task_of().load(write(tmp_path), "paper")
    train, val = dataset.splits["train"], dataset.splits["val"]
    triples = "Mars Hill College : JOINED : 1973 | Mars Hill College : LOCATION : Mars Hill, North Carolina###"
    assert [(e.id, e.group, e.target) for e in train] == [
        ("0-0", "0", "A school."),
        ("0-1", "0", "It joined in 1973 ."),
        ("1-0", "1", "Another."),
    ]
    assert [e.prompt for e in train] == [triples, triples, "Mars Hill College : JOINED : 1973###"]
    assert [(e.id, e.prompt) for e in val] == [("0", triples), ("1", train[2].prompt)]
    assert val[0].references == ("A school.", "It joined in 1973 .")
    assert {e.prefix for e in train + val} == {SECTION["instruction"] + "\n"}
    assert dataset.hash == task_of().load(write(tmp_path), "standard").hash
    assert task_of(instruction="Tell:").load(write(tmp_path), "paper").splits["val"][0].prefix == "Tell:\n"
    assert task_of().roles("paper", dataset, None, None) == Roles("train", "val", "val")
    assert task_of().roles("standard", dataset, None, None) == Roles("train", "val", "test")


# what XML can hold, without the mark that separates cells there
CELL = st.text(st.characters(exclude_characters="|\r", exclude_categories=("Cs", "Cc", "Cn")), max_size=12)
TEXT = st.text(st.characters(exclude_characters="#\r", exclude_categories=("Cs", "Cc", "Cn")), max_size=30)
ENTRY = st.tuples(
    st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=3), st.lists(TEXT, min_size=1, max_size=3)
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("json"), tmp_path_factory.mktemp("xml")


@given(st.lists(ENTRY, min_size=1, max_size=4), st.booleans())
def test_json_and_xml_say_the_same(folders: tuple[Path, Path], entries: Entries, more: bool) -> None:
    data = write(folders[0], **{split: json_of(entries) for split in NAMES})
    benchmark = ElementTree.Element("benchmark")
    listed = ElementTree.SubElement(benchmark, "entries")
    for number, (triples, texts) in enumerate(entries, start=1):
        entry = ElementTree.SubElement(listed, "entry", category="MISC", eid=f"Id{number}", size=str(len(triples)))
        if more:  # as in WebNLG's files
            ElementTree.SubElement(ElementTree.SubElement(entry, "originaltripleset"), "otriple").text = "x | Y | z"
        modified = ElementTree.SubElement(entry, "modifiedtripleset")
        for triple in triples:
            ElementTree.SubElement(modified, "mtriple").text = " | ".join(triple)
        for place, text in enumerate(texts, start=1):
            ElementTree.SubElement(entry, "lex", comment="WikiSQL_lily", lid=f"Id{place}").text = text
    for name in NAMES.values():
        content = ElementTree.tostring(benchmark, encoding="utf-8", xml_declaration=True)
        (folders[1] / f"dart-v1.1.1-full-{name}.xml").write_bytes(content)
    found, other = task_of().load(data, "paper"), task_of().load(data | {"path": str(folders[1])}, "paper")
    assert found.splits == other.splits
    assert [e.prompt for e in found.splits["val"]] == [
        " | ".join(" : ".join(triple) for triple in triples) + "###" for triples, _ in entries
    ]
    assert [list(e.references) for e in found.splits["test"]] == [texts for _, texts in entries]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"tripleset": []', r"dev\.json, line 1: not valid JSON"),
        ([{"tripleset": [MARS[0]]}], r"dev\.json, line 1, entry 1: the entry has no annotations"),
        ([{"tripleset": [MARS[0]], "annotations": []}], "entry 1: the entry has no annotations"),
        (
            [*json_of([([MARS[0]], ["a"])]), {"tripleset": [MARS[0]], "annotations": [{"source": "x"}]}],
            "entry 2: an annotation without a text",
        ),
        (json_of([([MARS[0]], ["a", "b###c"])]), "entry 1: a reference contains '###'"),
        (json_of([([["a", "b"]], ["c"])]), r"entry 1: the tripleset must be a list of \[subject, relation, object\]"),
        (json_of([([], ["c"])]), "entry 1: the tripleset must be"),
        (["text"], "entry 1: expected an object"),
        ({}, "expected a JSON list of entries, got a dict"),
        ([], "empty list"),
    ],
)
def test_bad_entries_are_named_with_their_place(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        task_of().load(write(tmp_path, val=content), "paper")


def test_missing_misencoded_and_broken_files_are_named(tmp_path: Path) -> None:
    data = write(tmp_path)
    file = tmp_path / "dart-v1.1.1-full-test.json"
    file.write_bytes("ü".encode("latin-1"))
    with pytest.raises(UserError, match=r"full-test\.json is not UTF-8"):
        task_of().load(data, "paper")
    file.unlink()
    with pytest.raises(UserError, match=r"full-test\.json is missing: .* dart-v1\.1\.1-full-test\.xml"):
        task_of().load(data, "paper")
    xml = file.with_suffix(".xml")
    xml.write_text("<benchmark><entries>\n<entry eid='Id1'></benchmark>")
    with pytest.raises(UserError, match=r"full-test\.xml, line 2: not valid XML"):
        task_of().load(data, "paper")
    triple = "<modifiedtripleset><mtriple>a | b</mtriple></modifiedtripleset>"
    xml.write_text(f"<benchmark><entries><entry eid='Id7'>{triple}<lex>x</lex></entry></entries></benchmark>")
    with pytest.raises(UserError, match=r"full-test\.xml, entry Id7: the tripleset must be"):
        task_of().load(data, "paper")


def entries_like(rows: int, references: int) -> list[dict[str, Any]]:
    """So many entries with so many references in all."""
    counts = [references // rows + (number < references % rows) for number in range(rows)]
    return json_of([([MARS[0]], [f"text {n}" for n in range(count)]) for count in counts])


def test_published_counts_are_checked(tmp_path: Path) -> None:
    official = {s: entries_like(COUNTS[f"{s} entries"], COUNTS[f"{s} references"]) for s in NAMES}
    dataset = task_of().load(write(tmp_path, "counts", **official), "paper")
    assert (dataset.name, dataset.published) == ("dart", True)
    assert {name: len(examples) for name, examples in dataset.splits.items()} == {
        "train": 62_659,
        "val": 2_768,
        "test": 5_097,
    }
    official["val"][0]["annotations"].pop()
    with pytest.raises(UserError, match=r"published DART v1\.1\.1: val references 6,979 instead of 6,980; .*check=off"):
        task_of().load(write(tmp_path, "counts", **official), "paper")


def hub_of(tables: dict[str, list[dict[str, Any]]], lists: bool, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub with these tables, annotations as parallel lists or not; what is asked of it."""
    asked: list[Any] = []

    def dataset_files(repo: str, revision: str | None, patterns: list[str]) -> HubFiles:
        asked.append((repo, revision, patterns))
        return HubFiles(repo, "e" * 40, {pattern: [Path(pattern)] for pattern in patterns})

    def read_table(paths: list[Path], columns: tuple[str, ...]) -> list[dict[str, Any]]:
        rows = tables[{"validation": "val"}.get(paths[0].parent.name, paths[0].parent.name)]
        if not lists:
            return rows
        return [
            row | {"annotations": {key: [one[key] for one in row["annotations"]] for key in ("source", "text")}}
            for row in rows
        ]

    monkeypatch.setattr(dart, "dataset_files", dataset_files)
    monkeypatch.setattr(dart, "read_table", read_table)
    return asked


@pytest.mark.parametrize("lists", [True, False], ids=["struct of lists", "list of structs"])
def test_the_hubs_tables_in_either_form(lists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {split: json_of([([*MARS], ["a", "b"]), ([MARS[1]], [split])]) for split in NAMES}
    asked = hub_of(tables, lists, monkeypatch)
    monkeypatch.setattr(dart, "check_counts", lambda *_: None)
    dataset = task_of().load(HUB, "standard")
    patterns = [f"default/{name}/*.parquet" for name in ("train", "validation", "test")]
    assert asked == [("Yale-LILY/dart", "refs/convert/parquet", patterns)]
    assert dataset.published
    assert dataset.origin == {"hub": "Yale-LILY/dart", "commit": "e" * 40, "test split": "since April 2021"}
    assert dataset.hash == task_of().load(write(tmp_path, **tables), "standard").hash


def test_the_hub_may_have_the_older_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {split: entries_like(COUNTS[f"{split} entries"], COUNTS[f"{split} references"]) for split in NAMES}
    tables["test"] = entries_like(OLD_TEST, OLD_TEST + 5)
    hub_of(tables, False, monkeypatch)
    assert task_of().load(HUB, "standard").origin["test split"] == "of before April 2021"
    with pytest.raises(UserError, match=r"test entries 6,959 instead of 5,097"):  # the repository's own is newer
        task_of().load(write(tmp_path, "counts", **tables), "standard")
    tables["test"] = tables["test"][1:]
    with pytest.raises(UserError, match=r"Yale-LILY/dart is not .* test entries 6,958 .* task\.revision=COMMIT"):
        task_of().load(HUB, "standard")
    tables["test"] = [{"tripleset": [MARS[0]], "annotations": None}]
    with pytest.raises(UserError, match=r"default/test/\*\.parquet, row 0 .*: the entry has no annotations"):
        task_of().load(HUB, "standard")


def test_wordnet_is_asked_for_before_training_and_not_to_read_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path)

    def absent() -> None:
        raise UserError("there is no WordNet")

    monkeypatch.setattr(dart, "require_wordnet", absent)
    task = task_of(wordnet="required")
    dataset = task.load(data, "paper")
    assert dataset.primary == "meteor"
    with pytest.raises(UserError, match=r"there is no WordNet; or add task\.wordnet=off .* name meteor_no_synonyms"):
        task.check_scoring(dataset.splits["val"])
    dataset = task_of(wordnet="off").load(data, "paper")
    assert dataset.primary == "meteor_no_synonyms"
    task_of(wordnet="off").check_scoring(dataset.splits["val"])
    assert task_of(wordnet=False).wordnet == "off"
    sample = task_of(wordnet="required").load(SAMPLE, "standard")
    assert sample.primary == "meteor_no_synonyms"
    assert sample.hash == task_of(wordnet="off").load(SAMPLE, "standard").hash
    examples = sample.splits["val"][:3]
    task.check_scoring(examples)
    for wordnet in ("required", "off"):
        values = task_of(wordnet=wordnet).score([e.target for e in examples], examples).values
        assert "meteor_no_synonyms" in values
        assert "meteor" not in values
    with pytest.raises(UserError, match=r"task\.wordnet must be required or off, got 'maybe'"):
        task_of(wordnet="maybe")

    monkeypatch.setattr(dart, "require_wordnet", lambda: None)
    task.check_scoring(task.load(data, "paper").splits["val"])
    dataset = task_of(wordnet="required").load(data, "standard")
    assert (dataset.primary, dataset.headline) == ("meteor", ("meteor", "bleu"))
    asked = []
    monkeypatch.setattr(
        dart, "meteor", lambda outputs, references, synonyms: (asked.append(synonyms) or 0.5, [0.5] * 2)
    )
    assert task_of(wordnet="required").score(["a", "b"], dataset.splits["val"]).values["meteor"] == 0.5
    assert asked == [True]


def test_scores_are_of_references_as_they_come_back_from_the_tokenizer() -> None:
    examples = [
        Example("0", "p", "It was .537 , I think .", ("It was .537 , I think .", "no")),
        Example("1", "p", "x", ("Some words here", "The dogs ran off at once !")),
    ]
    outputs = ["It was.537, I think.", "The dog ran"]
    scored = task_of().score(outputs, examples)
    words = ["the", "dogs", "ran", "off", "at", "once", "!"]

    class Nothing:
        def synsets(self, word: str) -> tuple[()]:
            return ()

    expected = [1 - 0.5 / 6**3, meteor_score([words], ["the", "dog", "ran"], wordnet=Nothing())]  # type: ignore[arg-type]
    assert [one["meteor_no_synonyms"] for one in scored.statistics] == pytest.approx(expected)
    assert scored.values["meteor_no_synonyms"] == pytest.approx(sum(expected) / 2)
    assert task_of().score(outputs[:1], examples[:1]).values["bleu"] == 1.0
    assert {"bleu", "sacrebleu"} < set(scored.values)
    assert [one["bleu_length"] for one in scored.statistics] == [8, 3]
    assert set(task_of().signatures(examples)) == {"meteor_no_synonyms", "bleu", "sacrebleu"}


def test_the_sample_world_has_entries() -> None:
    dataset = task_of().load(SAMPLE, "standard")
    assert dataset.name == "sample"
    assert not dataset.published
    assert set(dataset.splits) == {"train", "val", "test"}
    assert {e.id.count("-") for e in dataset.splits["train"]} == {1}


def test_the_real_entries_are_those_of_dev(shared: Path) -> None:
    folder = shared / "data" / "dart_small"
    data = {"source": "local", "path": str(folder), "check": "counts", "name": None}
    with pytest.raises(UserError, match=r"train entries 2,200 instead of 30,526, .*test references 686 .*check=off"):
        task_of().load(data, "paper")
    dataset = task_of().load(data | {"check": "off"}, "paper")
    assert (dataset.name, dataset.published) == ("dart_small", False)
    train, val, test = (dataset.splits[name] for name in ("train", "val", "test"))
    assert [len({e.group for e in train}), len(val), len(test)] == [2_200, 284, 284]
    assert len(train) + sum(len(e.references) for e in val + test) == 6_980
    everything = [*{e.group: e for e in train}.values(), *val, *test]
    assert len(everything) == 2_768
    sizes = [len(e.references) for e in everything]
    assert (min(sizes), max(sizes)) == (1, 33)
    assert [sizes.count(n) for n in (1, 2, 3)] == [1_100, 586, 671]
    assert sum("[TABLECONTEXT]" in e.prompt or "[TITLE]" in e.prompt for e in everything) == 61
    assert sum(len(set(e.references)) < len(e.references) for e in everything) == 126
    assert sum(text != dart.as_decoded(text) for e in everything for text in e.references) == 77


def test_prompts_in_tokens(shared: Path) -> None:
    tokenizer = Tokenizer(shared / "data" / "tokenizer" / "tokenizer.json")
    data = {"source": "local", "path": str(shared / "data" / "dart_small"), "check": "off", "name": None}
    dataset = task_of().load(data, "paper")
    for example in dataset.splits["val"]:
        assert tokenizer.encode(example.prompt) == [*tokenizer.encode(example.prompt[:-3]), 4118]
        assert tokenizer.encode(task_of().completion(example))[-1] == tokenizer.eos_id
        assert tokenizer.decode(tokenizer.encode(example.target)) == dart.as_decoded(example.target)
    prefix = dataset.splits["val"][0].prefix
    assert len(tokenizer.encode(prefix)) < 12
    joint = [tokenizer.encode(prefix + e.prompt) for e in dataset.splits["val"]]
    assert joint == [tokenizer.encode(prefix) + tokenizer.encode(e.prompt) for e in dataset.splits["val"]]


def test_a_run_asks_for_wordnet_before_it_loads_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssm_tune.config.compose import compose
    from ssm_tune.experiment import setup, shared_model

    def absent() -> None:
        raise UserError("there is no WordNet")

    def loaded(*arguments: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(dart, "require_wordnet", absent)
    monkeypatch.setattr(shared_model, "load_model", loaded)
    write(tmp_path)
    cell = ["method=lora", "task=dart", "model=tiny", "data=local", f"data.path={tmp_path}", "data.check=off"]
    cell += ["train.batch_size=1", f"output_dir={tmp_path / 'results'}", "protocol=paper"]
    with pytest.raises(UserError, match=r"no WordNet; or add task\.wordnet=off"):
        setup.build_experiment(compose(cell))
    with pytest.raises(AssertionError, match="the model was loaded"):
        setup.build_experiment(compose([*cell, "task.wordnet=off"]))
