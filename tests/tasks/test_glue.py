"""GLUE's members in their official layouts, on the hub and in the sample world, and their scores."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ssm_tune.config.groups import conf_dir
from ssm_tune.hub.download import HubFiles
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks import glue
from ssm_tune.tasks.base import Dataset, Example, Roles, load_task
from ssm_tune.tasks.glue import Glue
from ssm_tune.tasks.splits import hold_out_validation
from ssm_tune.utils.errors import UserError

MEMBERS = ("cola", "sst2", "mrpc", "qqp", "qnli", "rte", "mnli")
MNLI = ["index", "promptID", "pairID", "genre"] + [
    f"sentence{n}{kind}" for kind in ("_binary_parse", "_parse", "") for n in (1, 2)
]
# folder, header (empty: none), columns of the texts, of the label, label texts by digit; as the official files have it
LAYOUT: dict[str, tuple[str, list[str], list[int], int, list[str]]] = {
    "cola": ("CoLA", [], [3], 1, ["0", "1"]),
    "sst2": ("SST-2", ["sentence", "label"], [0], 1, ["0", "1"]),
    "mrpc": ("MRPC", ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], [3, 4], 0, ["0", "1"]),
    "qqp": ("QQP", ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], [3, 4], 5, ["0", "1"]),
    "qnli": ("QNLI", ["index", "question", "sentence", "label"], [1, 2], 3, ["entailment", "not_entailment"]),
    "rte": ("RTE", ["index", "sentence1", "sentence2", "label"], [1, 2], 3, ["entailment", "not_entailment"]),
    "mnli": ("MNLI", [*MNLI, "label1", "gold_label"], [8, 9], -1, ["entailment", "neutral", "contradiction"]),
}
DEV_OF_MNLI = [*MNLI, "label1", "label2", "label3", "label4", "label5", "gold_label"]
FIELD = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=("Cs",)), max_size=20)
TRICKY = st.sampled_from(['"', '" quoted "', "say ' no '", "ends in a blank ", " \u00a0", "a\u2028b", "", "#", "\\N"])
TEXT = FIELD | TRICKY


def section(member: str) -> dict[str, Any]:
    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / f"glue_{member}.yaml"))
    assert isinstance(loaded, dict)
    return dict(loaded["task"])


def task_of(member: str, **options: Any) -> Glue:
    task = load_task(section(member) | options)
    assert isinstance(task, Glue)
    return task


def local(path: Path, check: str = "off") -> dict[str, Any]:
    return {"source": "local", "path": str(path), "check": check, "name": "mine"}


def write(file: Path, header: list[str], rows: list[list[str]], bom: bool = False, closed: bool = True) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(row) for row in ([header] if header else []) + rows]
    text = "\n".join(lines) + "\n" * closed
    file.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))


def rows_of(member: str, texts: list[tuple[str, str, int]], header: list[str]) -> list[list[str]]:
    """Official rows: the two texts and the label in their columns, something else in all others."""
    _, _, places, label, labels = LAYOUT[member]
    rows = []
    for number, (first, second, digit) in enumerate(texts):
        row = [f"other {column}" for column in range(len(header) or 4)]
        row[0] = str(number)
        for place, text in zip(places, (first, second), strict=False):
            row[place] = text
        row[label] = labels[digit % len(labels)]
        rows.append(row)
    return rows


def files_of(member: str) -> dict[str, list[str]]:
    header = LAYOUT[member][1]
    if member == "mnli":
        return {"train.tsv": header, "dev_matched.tsv": DEV_OF_MNLI, "dev_mismatched.tsv": DEV_OF_MNLI}
    return {"train.tsv": header, "dev.tsv": header}


def write_member(root: Path, member: str, texts: list[tuple[str, str, int]]) -> Path:
    folder = root / LAYOUT[member][0]
    for file, header in files_of(member).items():
        write(folder / file, header, rows_of(member, texts, header), member == "mrpc", closed=member != "cola")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("glue")


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS)
@given(texts=st.lists(st.tuples(TEXT, TEXT, st.integers(0, 2)), min_size=1, max_size=6))
def test_official_files_are_read_as_csv_reads_them(member: str, root: Path, texts: list[tuple[str, str, int]]) -> None:
    folder, _, places, label, labels = LAYOUT[member]
    write_member(root, member, texts)
    task = task_of(member)
    dataset = task.load(local(root), "standard")
    found = {name: list(examples) for name, examples in dataset.splits.items()}
    for file, header in files_of(member).items():
        with open(root / folder / file, encoding="utf-8-sig") as opened:
            oracle = list(csv.reader(opened, delimiter="\t", quoting=csv.QUOTE_NONE))[bool(header) :]
        group = file.removeprefix("dev_").removesuffix(".tsv") if "_" in file else ""
        split = "train" if file == "train.tsv" else "val"
        examples = [example for example in found[split] if example.group == group]
        assert len(examples) == len(oracle) == len(texts)
        for number, (example, row) in enumerate(zip(examples, oracle, strict=True)):
            assert example.prompt == task.instruction + "".join(row[place] + "###" for place in places)
            assert example.target == str(labels.index(row[label]))
            assert example.references == (example.target,)
            assert example.id == (f"{group}-{number}" if group else str(number))
            assert (example.prefix, task.completion(example)) == ("", example.target)
    assert dataset.name == "mine"
    assert not dataset.published
    assert task.load(local(root / folder), "standard").hash == dataset.hash  # the member's folder does as well


def test_rows_of_qqp_with_missing_fields_are_left_out_and_told(tmp_path: Path) -> None:
    texts = [("a", "b", 0), ("c", "d", 1), ("e", "f", 0)]
    folder = write_member(tmp_path, "qqp", texts)
    text = (folder / "train.tsv").read_text().replace("\td\t1\n", "\n\td\n")
    (folder / "train.tsv").write_text(text)
    dataset = task_of("qqp").load(local(tmp_path), "standard")
    assert [example.id for example in dataset.splits["train"]] == ["0", "3"]  # as the hub numbers them
    assert dataset.origin == {"train.tsv, rows left out": "2 with a field missing"}
    cut = (folder / "dev.tsv").read_text().replace("\t1\n", "\t1\t1\n")
    (folder / "dev.tsv").write_text(cut)
    with pytest.raises(UserError, match=r"dev\.tsv, line 3: 7 columns, expected 6"):
        task_of("qqp").load(local(tmp_path), "standard")


def test_mrpc_is_made_anew_from_the_original_corpus(tmp_path: Path) -> None:
    folder = write_member(tmp_path, "mrpc", [("only in train.tsv", "x", 1)])
    header = LAYOUT["mrpc"][1]
    rows = [["1", "10", "20", "a", "b"], ["0", "20", "10", "c", 'd " e'], ["1", "7", "8", "f ", "g"]]
    write(folder / "msr_paraphrase_train.txt", header, rows, bom=True)
    assert task_of("mrpc").load(local(tmp_path), "paper").splits["train"][0].prompt.endswith("only in train.tsv###x###")
    write(folder / "dev_ids.tsv", [], [["20", "10"], ["8", "7"]])
    dataset = task_of("mrpc").load(local(tmp_path), "paper")
    instruction = section("mrpc")["instruction"]
    assert [(e.id, e.prompt) for e in dataset.splits["val"]] == [("1", instruction + 'c###d " e###')]
    assert [(e.id, e.prompt) for e in dataset.splits["train"]] == [
        ("0", instruction + "a###b###"),
        ("2", instruction + "f ###g###"),  # an ordered pair: 8, 7 is another one
    ]
    assert "rebuilt" in dataset.origin


@pytest.mark.parametrize("member", MEMBERS)
def test_published_counts_are_refused_by_name_and_accepted_on_request(member: str, tmp_path: Path) -> None:
    folder = write_member(tmp_path, member, [("a", "b", 0), ("c", "d", 1), ("e", "f", 2)])
    with pytest.raises(UserError) as caught:
        task_of(member).load(local(tmp_path, "counts"), "paper")
    expected = {
        part["split"] + " " * bool(part.get("group")) + part.get("group", ""): part["rows"]
        for part in section(member)["parts"]
    }
    for name, rows in expected.items():
        assert f"{name} rows 3 instead of {rows:,}" in str(caught.value)
    assert f"is not the published GLUE's {folder.name}" in str(caught.value)
    assert str(caught.value).endswith("data.check=off")
    assert "\n" not in str(caught.value)
    assert task_of(member).load(local(tmp_path), "paper").name == "mine"


def test_the_right_numbers_of_rows_pass_unless_their_classes_are_wrong(tmp_path: Path) -> None:
    def rte(val: list[int]) -> Path:
        folder = tmp_path / "RTE"
        header = LAYOUT["rte"][1]
        write(folder / "train.tsv", header, rows_of("rte", [("a", "b", n % 2) for n in range(2490)], header))
        write(folder / "dev.tsv", header, rows_of("rte", [("a", "b", digit) for digit in val], header))
        return tmp_path

    dataset = task_of("rte").load(local(rte([0] * 146 + [1] * 131), "counts"), "standard")
    assert (dataset.name, dataset.published) == ("glue_rte", True)
    with pytest.raises(UserError, match=r"label 0 131 instead of 146, val rows with label 1 146 instead of 131; "):
        task_of("rte").load(local(rte([1] * 146 + [0] * 131), "counts"), "standard")


def test_a_file_saved_anew_is_refused_where_published_data_are_meant(tmp_path: Path) -> None:
    folder = write_member(tmp_path, "rte", [('He said ""no"" .', "b", 0)])
    rows = [["0", '"He said ""no"" ."', "b", "entailment"]]
    write(folder / "dev.tsv", LAYOUT["rte"][1], rows)
    write(folder / "train.tsv", LAYOUT["rte"][1], rows)
    with pytest.raises(UserError, match=r"train\.tsv was saved again with quotes \(1 fields, such as '\"He said"):
        task_of("rte").load(local(tmp_path, "counts"), "paper")
    assert task_of("rte").load(local(tmp_path), "paper").splits["val"][0].prompt.endswith('"He said ""no"" ."###b###')


@pytest.mark.parametrize(
    ("member", "content", "said"),
    [
        (
            "rte",
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tneutral\n",
            r"dev\.tsv, line 3: the label is 'neutral', expected one of entailment, not_entailment",
        ),
        (
            "rte",
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tentai",
            r"line 3: the label is 'entai'",
        ),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta", r"line 3: 2 columns, expected 4"),
        ("rte", "index\tsentence\tlabel\n", r"line 1: no column 'sentence1' among 'index', 'sentence', 'label'"),
        ("cola", "gj04\t-1\t\tA sentence.\n", r"line 1: the label is '-1', expected one of 0, 1"),
        ("cola", "index\tsentence\n0\tA sentence.\n", r"line 1: 2 columns, expected 4"),
        ("cola", '"gj04"\t"1"\t""\t"A sentence."\n', r"line 1: the label is '\"1\"'"),
    ],
)
def test_bad_rows_are_named_with_their_line(member: str, content: str, said: str, tmp_path: Path) -> None:
    folder = write_member(tmp_path, member, [("a", "b", 0)])
    (folder / "dev.tsv").write_text(content)
    with pytest.raises(UserError, match=said):
        task_of(member).load(local(tmp_path), "standard")


def test_missing_and_misencoded_files_are_named(tmp_path: Path) -> None:
    folder = write_member(tmp_path, "mnli", [("a", "b", 0)])
    (folder / "dev_matched.tsv").write_bytes("ü".encode("latin-1"))
    with pytest.raises(UserError, match=r"dev_matched\.tsv is not UTF-8"):
        task_of("mnli").load(local(tmp_path), "standard")
    (folder / "dev_matched.tsv").unlink()
    with pytest.raises(UserError, match=r"dev_matched\.tsv is missing: the folder MNLI holds train\.tsv, dev_matched"):
        task_of("mnli").load(local(tmp_path), "standard")


def test_the_instruction_is_the_users_to_choose(tmp_path: Path) -> None:
    write_member(tmp_path, "sst2", [("fine ", "", 1)])
    dataset = task_of("sst2", instruction="Good? ").load(local(tmp_path), "standard")
    assert dataset.splits["val"][0].prompt == "Good? fine ###"
    assert dataset.hash != task_of("sst2").load(local(tmp_path), "standard").hash
    with pytest.raises(UserError, match=r"task\.instruction must be text, got 3"):
        task_of("sst2", instruction=3)


@pytest.mark.parametrize("member", MEMBERS)
def test_instructions_name_every_digit_and_end_in_a_colon_and_a_blank(member: str) -> None:
    instruction, labels = section(member)["instruction"], LAYOUT[member][4]
    assert instruction.endswith(": ")
    assert "###" not in instruction
    assert [c for c in instruction.partition(". ")[2] if c.isdigit()] == [str(n) for n in range(len(labels))]
    if labels[0] != "0":
        assert all(f"{n} for {label.replace('_', ' ')}" in instruction for n, label in enumerate(labels))


@pytest.mark.parametrize("member", MEMBERS)
def test_the_hubs_tables_give_the_same_examples(member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [("a ", '"', 0), ("c", "d", 1), ("e", "f", 2)]
    write_member(tmp_path, member, texts)
    task, labels = task_of(member), LAYOUT[member][4]
    asked = []

    def dataset_files(repo: str, revision: str | None, patterns: list[str]) -> HubFiles:
        asked.append((repo, revision, patterns))
        return HubFiles(repo, "f" * 40, {pattern: [Path(pattern)] for pattern in patterns})

    def read_table(paths: list[Path], columns: list[str]) -> list[dict[str, Any]]:
        assert columns[-2:] == ["label", "idx"]
        return [
            dict(zip(columns, (first, second)[: len(columns) - 2], strict=False))
            | {"label": digit % len(labels), "idx": number}
            for number, (first, second, digit) in enumerate(texts)
        ]

    monkeypatch.setattr(glue, "dataset_files", dataset_files)
    monkeypatch.setattr(glue, "read_table", read_table)
    hub = {"source": "hub", "path": None, "check": "counts", "name": None}
    with pytest.raises(UserError, match=r"nyu-mll/glue is not .* rows 3 instead of .*task\.revision"):
        task.load(hub, "paper")
    names = ["validation_matched", "validation_mismatched"] if member == "mnli" else ["validation"]
    patterns = [f"{member}/{name}-*.parquet" for name in ("train", *names)]
    assert asked == [("nyu-mll/glue", section(member)["revision"], patterns)]
    monkeypatch.setattr(glue, "check_counts", lambda *_: None)
    dataset = task.load(hub, "paper")
    assert dataset.hash == task.load(local(tmp_path), "paper").hash
    assert dataset.origin == {"hub": "nyu-mll/glue", "commit": "f" * 40}
    assert dataset.published

    monkeypatch.setattr(glue, "read_table", lambda paths, columns: [dict.fromkeys(columns, "x") | {"label": -1}])
    with pytest.raises(UserError, match="the row with idx x lacks a text or a label"):
        task.load(hub, "paper")


@pytest.mark.parametrize("member", MEMBERS)
def test_the_sample_world_has_every_member(member: str) -> None:
    data = {"source": "sample", "path": None, "check": "counts", "name": None}
    dataset = task_of(member).load(data, "standard")
    assert dataset.name == "sample"
    assert not dataset.published
    labels = {example.target for examples in dataset.splits.values() for example in examples}
    assert labels == {str(digit) for digit in range(len(LAYOUT[member][4]))}
    halves = {example.group for example in dataset.splits["val"]}
    assert halves == ({"matched", "mismatched"} if member == "mnli" else {""})


@pytest.mark.parametrize(
    ("member", "primary", "headline"),
    [
        ("cola", "matthews", ("matthews",)),
        ("mrpc", "accuracy", ("accuracy", "f1")),
        ("qqp", "accuracy", ("accuracy", "f1")),
        ("mnli", "accuracy", ("accuracy", "accuracy_matched", "accuracy_mismatched")),
        ("rte", "accuracy", ("accuracy",)),
    ],
)
def test_protocols_choose_metrics_and_splits(
    member: str, primary: str, headline: tuple[str, ...], tmp_path: Path
) -> None:
    write_member(tmp_path, member, [(str(n), "b", n) for n in range(30)])
    task = task_of(member)
    standard, paper = (task.load(local(tmp_path), protocol) for protocol in ("standard", "paper"))
    assert (standard.primary, standard.headline) == (primary, (*headline, "outside_labels"))
    assert paper.primary == f"paper_{primary}"
    assert paper.headline == (*(f"paper_{name}" for name in headline if "matched" not in name), "outside_labels")
    assert standard.hash == paper.hash
    assert task.roles("paper", paper, None, None) == Roles("train", "val", "val")
    assert task.roles("standard", standard, None, None) == Roles("train", "carved", "val")
    carved = hold_out_validation(standard).splits["carved"]
    for examples in (carved, standard.splits["val"]):
        outputs = ["0"] * len(examples)
        values = task.score(outputs, examples).values
        assert {primary, f"paper_{primary}"} <= set(values)
        assert set(headline) <= set(values) or examples is carved


def examples_of(labels: str, groups: list[str] | None = None) -> list[Example]:
    given = zip(labels, groups or [""] * len(labels), strict=True)
    return [Example(str(n), "p", one, (one,), group=group) for n, (one, group) in enumerate(given)]


def test_answers_that_are_no_label_are_wrong_and_the_papers_scores_leave_them_out() -> None:
    labels, outputs = "110010", ["1", " 1", "0", "x", "1", "0"]
    scored = task_of("mrpc").score(outputs, examples_of(labels))
    inside = [0, 2, 4, 5]
    kept = ([labels[i] for i in inside], [outputs[i] for i in inside])
    assert scored.values["accuracy"] == pytest.approx(4 / 6)
    assert scored.values["paper_accuracy"] == pytest.approx(accuracy_score(*kept))
    assert scored.values["paper_f1"] == pytest.approx(f1_score(*kept, pos_label="1"))
    assert scored.values["outside_labels"] == pytest.approx(2 / 6)
    assert [one["correct"] for one in scored.statistics] == [1, 0, 1, 0, 1, 1]
    assert [one["outside"] for one in scored.statistics] == [0, 1, 0, 1, 0, 0]
    values = task_of("cola").score(outputs, examples_of(labels)).values
    assert values["paper_matthews"] == pytest.approx(matthews_corrcoef(*kept))
    assert "f1" not in values


def test_the_halves_of_mnli_are_scored_apart_and_together() -> None:
    groups = ["matched"] * 3 + ["mismatched"] * 2
    task = task_of("mnli")
    values = task.score(list("01203"), examples_of("01222", groups)).values
    assert values["accuracy_matched"] == 1.0
    assert values["accuracy_mismatched"] == 0.0
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["paper_accuracy"] == pytest.approx(3 / 4)
    assert "n=5" in task.signatures(examples_of("01222", groups))["classification"]


REAL = {
    "CoLA": ("cola", {"train": 8_551, "val": 1_043}, {"1": 721, "0": 322}),
    "SST-2": ("sst2", {"train": 67_349, "val": 872}, {"1": 444, "0": 428}),
    "MRPC": ("mrpc", {"train": 3_667, "val": 408}, {"1": 279, "0": 129}),
    "RTE": ("rte", {"train": 2_490, "val": 277}, {"0": 146, "1": 131}),
}


def real(shared: Path, folder: str) -> Dataset:
    member, _, _ = REAL[folder]
    check = "off" if folder == "MRPC" else "counts"
    return task_of(member).load(local(shared / "data" / "glue", check), "standard")


@pytest.mark.parametrize("folder", REAL)
def test_real_copies_have_the_published_counts(folder: str, shared: Path) -> None:
    _, sizes, classes = REAL[folder]
    dataset = real(shared, folder)
    assert {name: len(examples) for name, examples in dataset.splits.items()} == sizes
    assert Counter(example.target for example in dataset.splits["val"]) == classes
    assert dataset.published == (folder != "MRPC")
    with open(shared / "data" / "glue" / folder / "dev.tsv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    member = REAL[folder][0]
    _, header, places, _, _ = LAYOUT[member]
    instruction = section(member)["instruction"]
    assert [example.prompt for example in dataset.splits["val"]] == [
        instruction + "".join(row[place] + "###" for place in places) for row in rows[bool(header) :]
    ]


def test_the_mrpc_that_lost_a_row_is_refused_with_the_way_to_mend_it(shared: Path) -> None:
    with pytest.raises(UserError, match=r"MRPC: train rows 3,667 instead of 3,668; with msr_paraphrase_train\.txt and"):
        task_of("mrpc").load(local(shared / "data" / "glue", "counts"), "paper")


def test_the_real_mrpc_is_whole_again_from_its_original(shared: Path, tmp_path: Path) -> None:
    """The original corpus, put together from the copies and the row that they lack, with the ids of dev."""
    folder = shared / "data" / "glue" / "MRPC"
    train, dev = ((folder / f"{name}.tsv").read_text(encoding="utf-8-sig").splitlines() for name in ("train", "dev"))
    lost = "0\t2750203\t2750153\tA sentence\tAnother"
    target = tmp_path / "MRPC"
    target.mkdir()
    (target / "msr_paraphrase_train.txt").write_text("\n".join([*train[:2000], lost, *dev[1:], *train[2000:]]) + "\n")
    (target / "dev_ids.tsv").write_text("".join("\t".join(line.split("\t")[1:3]) + "\n" for line in dev[1:]))
    dataset = task_of("mrpc").load(local(tmp_path, "counts"), "paper")
    assert dataset.published
    before = real(shared, "MRPC")
    for split, extra in (("train", 1), ("val", 0)):
        prompts = [example.prompt for example in dataset.splits[split]]
        assert Counter(prompts) - Counter(example.prompt for example in before.splits[split]) == (
            Counter([section("mrpc")["instruction"] + "A sentence###Another###"]) if extra else Counter()
        )


def test_qnli_dev_has_the_published_classes(shared: Path, tmp_path: Path) -> None:
    dev = (shared / "data" / "glue" / "QNLI" / "dev.tsv").read_bytes()
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_bytes(dev)
    dataset = task_of("qnli").load(local(tmp_path), "standard")
    assert Counter(example.target for example in dataset.splits["val"]) == {"0": 2_702, "1": 2_761}
    with pytest.raises(UserError, match=r": train rows 5,463 instead of 104,743; "):  # and nothing of val
        task_of("qnli").load(local(tmp_path, "counts"), "standard")


@pytest.mark.slow
def test_prompts_in_tokens(shared: Path) -> None:
    tokenizer = Tokenizer(shared / "data" / "tokenizer" / "tokenizer.json")
    assert tokenizer.encode("###") == [4118]
    assert [tokenizer.encode(digit) for digit in "012"] == [[17], [18], [19]]
    for folder in REAL:
        for example in real(shared, folder).splits["val"][:300]:
            ids = tokenizer.encode(example.prompt)
            assert ids[-1] == 4118
            body = example.prompt.removesuffix("###")
            if not body.endswith("#"):
                assert ids[:-1] == tokenizer.encode(body)
    for example in real(shared, "SST-2").splits["val"][:300]:
        ids, stripped = (tokenizer.encode(text) for text in (example.prompt, example.prompt[:-4] + "###"))
        assert example.prompt.endswith(" ###")
        assert len(ids) == len(stripped) + 1
