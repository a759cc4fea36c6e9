"""Scoring files of predictions: against the metrics' own packages, and every way to be refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from ssm_tune.commands import score as command
from ssm_tune.utils.errors import UserError

OUTPUTS = ["Ann is late .", "Bob bakes a cake", "", "They meet at noon"]
REFERENCES = ["Ann is late.", "Bob baked a cake.", "Nothing happened.", "They meet at noon."]
SECOND = ["Ann is not on time.", "", "It was quiet.", ""]


def lines(path: Path, texts: Sequence[str], end: str = "\n") -> Path:
    path.write_bytes("".join(text + end for text in texts).encode())
    return path


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    return lines(path, [json.dumps(row) for row in rows])


def scored(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert command.main([*(str(one) for one in arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def rouge_l(outputs: Sequence[str], references: Sequence[str]) -> float:
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    scores = [scorer.score(ref, out)["rougeL"].fmeasure for out, ref in zip(outputs, references, strict=True)]
    return math.fsum(scores) / len(scores)


def test_text_files_against_rouge_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions, references = lines(tmp_path / "p.txt", OUTPUTS), lines(tmp_path / "r.txt", REFERENCES)
    found = scored(capsys, "--task", "samsum", "--predictions", predictions, "--references", references)
    assert (found["task"], found["n"]) == ("samsum", 4)
    assert found["values"]["rougeL"] == pytest.approx(rouge_l(OUTPUTS, REFERENCES), abs=1e-12)
    assert "n=4" in found["signatures"]["rouge"]
    dos = lines(tmp_path / "dos.txt", OUTPUTS, "\r\n")
    dos.write_bytes(dos.read_bytes()[:-2])  # no end of line at the end
    assert scored(capsys, "--task", "samsum", "--predictions", dos, "--references", references) == found


def test_jsonl_is_matched_by_id_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = [{"id": i, "output": output, "statistics": {}} for i, output in enumerate(OUTPUTS)]
    references = [{"id": str(i), "references": [text]} for i, text in enumerate(REFERENCES)]
    arguments = ("--task", "samsum", "--references", jsonl(tmp_path / "r.jsonl", references), "--predictions")
    expected = scored(capsys, *arguments, jsonl(tmp_path / "p.jsonl", predictions))
    assert expected["values"]["rougeL"] == pytest.approx(rouge_l(OUTPUTS, REFERENCES), abs=1e-12)
    assert scored(capsys, *arguments, jsonl(tmp_path / "q.jsonl", predictions[::-1])) == expected
    plain = [{"prediction": output} for output in OUTPUTS]
    references = [{"references": [text]} for text in REFERENCES]
    arguments = ("--task", "samsum", "--references", jsonl(tmp_path / "s.jsonl", references), "--predictions")
    assert scored(capsys, *arguments, jsonl(tmp_path / "t.jsonl", plain)) == expected


def test_several_references_against_sacrebleu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As parallel files, where an empty line is no reference, and as jsonl."""
    outputs = ["Ann is late today, is she not?", "Bob bakes a cake for us", "It was very quiet there.", "They meet"]
    texts = [[ref, more] if more else [ref] for ref, more in zip(REFERENCES, SECOND, strict=True)]
    arguments = ("--task", "dart", "task.wordnet=off", "--predictions", lines(tmp_path / "p.txt", outputs))
    files = ("--references", lines(tmp_path / "a.txt", REFERENCES), "--references", lines(tmp_path / "b.txt", SECOND))
    found = scored(capsys, *arguments, *files)
    streams = [REFERENCES, [text or None for text in SECOND]]
    expected = sacrebleu.corpus_bleu(outputs, streams).score / 100
    assert found["values"]["sacrebleu"] == pytest.approx(expected, abs=1e-12)
    assert expected > 0
    rows = jsonl(tmp_path / "r.jsonl", [{"references": its} for its in texts])
    assert scored(capsys, *arguments, "--references", rows)["values"] == found["values"]


def test_labels_against_scikit_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers, labels = list("1101001101"), list("1001011100")
    files = ("--predictions", lines(tmp_path / "p", answers), "--references", lines(tmp_path / "r", labels))
    cola = scored(capsys, "--task", "glue_cola", *files)["values"]
    assert cola["matthews"] == pytest.approx(matthews_corrcoef(labels, answers), abs=1e-12)
    mrpc = scored(capsys, "--task", "glue_mrpc", *files)["values"]
    assert mrpc["accuracy"] == pytest.approx(accuracy_score(labels, answers), abs=1e-12)
    assert mrpc["f1"] == pytest.approx(f1_score(labels, answers, pos_label="1"), abs=1e-12)
    answers[0] = "yes"
    lines(tmp_path / "p", answers)
    outside = scored(capsys, "--task", "glue_mrpc", *files)["values"]
    assert outside["outside_labels"] == 0.1
    assert outside["paper_accuracy"] == pytest.approx(accuracy_score(labels[1:], answers[1:]), abs=1e-12)
    assert outside["accuracy"] == pytest.approx(sum(a == b for a, b in zip(answers, labels, strict=True)) / 10)


SCHEMA = {
    "db_id": "club",
    "table_names_original": ["singer"],
    "table_names": ["singer"],
    "column_names_original": [[-1, "*"], [0, "id"], [0, "name"], [0, "age"]],
    "column_names": [[-1, "*"], [0, "id"], [0, "name"], [0, "age"]],
    "column_types": ["text", "number", "text", "number"],
    "primary_keys": [1],
    "foreign_keys": [],
}
GOLDS = [
    "SELECT name FROM singer",
    "SELECT name FROM singer WHERE age  >  30 AND id  >  1",
    "SELECT count(*) FROM singer WHERE name = 'Ann'",
]


@pytest.fixture
def club(tmp_path: Path) -> Path:
    import sqlite3

    folder = tmp_path / "spider"
    (folder / "database" / "club").mkdir(parents=True)
    (folder / "tables.json").write_text(json.dumps([SCHEMA]))
    connection = sqlite3.connect(folder / "database" / "club" / "club.sqlite")
    connection.execute("CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
    connection.executemany("INSERT INTO singer VALUES (?, ?, ?)", [(1, "Ann", 40), (2, "Bob", 50), (3, "Cy", 20)])
    connection.commit()
    connection.close()
    lines(folder / "gold.txt", [f"{gold}\tclub" for gold in GOLDS])
    return folder


def spider(folder: Path, predictions: Sequence[str]) -> list[str]:
    file = lines(folder / "pred.txt", predictions)
    gold = folder / "gold.txt"
    return ["--task", "spider", "--predictions", str(file), "--gold", str(gold), "--data-path", str(folder)]


def test_spiders_files(club: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = scored(capsys, *spider(club, GOLDS))
    assert found["n"] == 3
    assert found["values"]["exact"] == found["values"]["execution"] == 1.0
    assert found["counts"] == {"easy": 2, "medium": 1, "hard": 0, "extra": 0}
    # another name of the same column, a wrong literal, which exact match forgives, and one that is no SQL
    answers = ["SELECT name FROM singer\tclub", "SELECT name FROM singer WHERE age > 45 AND id > 0", "no idea"]
    values = scored(capsys, *spider(club, answers))["values"]
    assert values["exact"] == pytest.approx(2 / 3)
    assert values["execution"] == pytest.approx(2 / 3)
    assert values["exact_easy"] == 0.5
    assert values["exact_medium"] == 1.0
    assert command.main(spider(club, GOLDS)) == 0
    out = capsys.readouterr().out
    assert "easy      medium        hard       extra" in out
    assert "exact: exact set match" in out


def test_spider_without_databases(club: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.rmtree(club / "database")
    assert set(scored(capsys, *spider(club, GOLDS))["signatures"]) == {"exact", "paper_exact"}
    assert command.main(spider(club, GOLDS)) == 0
    assert "nothing was executed" in capsys.readouterr().out


def test_spiders_gold_against_itself(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "data" / "spider"
    dev = json.loads((folder / "dev.json").read_text())
    gold = lines(tmp_path / "gold", [f"{one['query']}\t{one['db_id']}" for one in dev])
    predictions = lines(tmp_path / "pred", [one["query"] for one in dev])
    arguments = ("--task", "spider", "--predictions", predictions, "--gold", gold, "--data-path", folder)
    found = scored(capsys, *arguments)
    assert found["values"]["exact"] == 1.0
    assert found["counts"] == {"easy": 248, "medium": 446, "hard": 174, "extra": 166}


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ("SELECT name FROM singer club", "gold.txt line 1: expected a query, a tab and a db_id"),
        ("SELECT name FROM singer\t", "gold.txt line 1: expected a query, a tab and a db_id"),
        ("\tclub", "gold.txt line 1: expected a query, a tab and a db_id"),
        ("SELECT name FROM singer\tpub", "no schema for db_id 'pub'|no database for db_id 'pub'"),
        ("SELECT name FROM nobody\tclub", "does not parse by Spider's grammar"),
        ("SELECT name FROM singer\tclub\nSELECT name FROM singer\tclub", "there are 1 predictions for 2 references"),
        ("\n", "not one reference: the file is empty"),
        ("\nSELECT name FROM singer\tclub", "gold.txt line 1: expected a query, a tab and a db_id"),
    ],
)
def test_gold_files_that_are_amiss(club: Path, gold: str, message: str) -> None:
    arguments = spider(club, GOLDS[:1])
    (club / "gold.txt").write_text(gold + "\n")
    with pytest.raises(UserError, match=message) as caught:
        command.main(arguments)
    assert "\n" not in str(caught.value)


GOOD = [{"id": "a", "output": "x"}, {"id": "b", "output": "y"}]
GOOD_REFERENCES = [{"id": "a", "references": ["x"]}, {"id": "b", "references": ["y"]}]


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (GOOD[:1], GOOD_REFERENCES, r"r.jsonl line 2: no prediction for id 'b' \(1 missing\)"),
        ([*GOOD, GOOD[0]], GOOD_REFERENCES, "p.jsonl line 3: the id 'a' stands there twice, first at .*p.jsonl line 1"),
        (GOOD, [*GOOD_REFERENCES, GOOD_REFERENCES[1]], "r.jsonl line 3: the id 'b' stands there twice"),
        ([*GOOD, {"id": "c", "output": ""}], GOOD_REFERENCES, "p.jsonl line 3: the references have no id 'c'"),
        ([GOOD[0], {"output": "y"}], GOOD_REFERENCES, "p.jsonl line 2: no id, while other lines have one"),
        ([{"output": "x"}, {"output": "y"}], GOOD_REFERENCES, "the predictions have ids|the references have ids"),
        (GOOD, [{"references": ["x"]}, {"references": ["y"]}], "predictions have ids and the other file has none"),
        ([{"output": "x"}], [{"references": ["x"]}] * 2, "there are 1 predictions for 2 references"),
        ([{"id": "a", "text": "x"}], GOOD_REFERENCES, 'p.jsonl line 1: no text under "output" or "prediction"'),
        ([{"id": "a", "output": None}], GOOD_REFERENCES, 'p.jsonl line 1: no text under "output" or "prediction"'),
        ([{"id": [], "output": "x"}], GOOD_REFERENCES, r"p.jsonl line 1: the id is \[\]"),
        (GOOD, [{"id": "a", "references": []}], "r.jsonl line 1: there are no references"),
        (GOOD, [{"id": "a", "references": ["x", " "]}], "r.jsonl line 1: a reference is empty"),
        (GOOD, [{"id": "a", "references": "x"}], 'r.jsonl line 1: no list of texts under "references"'),
        (GOOD, [], "there is not one reference: the file is empty"),
        ([], GOOD_REFERENCES, "there is not one prediction: the file is empty"),
    ],
)
def test_jsonl_that_is_amiss(tmp_path: Path, predictions: Any, references: Any, message: str) -> None:
    files = (jsonl(tmp_path / "p.jsonl", predictions), jsonl(tmp_path / "r.jsonl", references))
    with pytest.raises(UserError, match=message) as caught:
        command.main(["--task", "samsum", "--predictions", str(files[0]), "--references", str(files[1])])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "predictions", "references", "message"),
    [
        ("samsum", b"a\n", [b"a\nb\n"], "there are 1 predictions for 2 references"),
        ("samsum", b"a\n", [b"\n"], "r0 line 1: the reference is empty"),
        ("samsum", b"a\n", [b""], "not one reference"),
        ("dart", b"a\nb\n", [b"a\nb\n", b"a\n"], "r1 has 1 lines, .*r0 has 2"),
        ("dart", b"a\nb\n", [b"a\n \n", b"a\n\n"], "r0 line 2: the reference is empty"),
        ("samsum", b"a\xff\n", [b"a\n"], "p is not UTF-8 .byte 1."),
        ("glue_rte", b"0\n1\n", [b"0\nentailment\n"], "r0 line 2: the label is 'entailment', expected one of 0, 1"),
        ("glue_rte", b"0\n", [b"0\n", b"1\n"], "the label is '0 and 1', expected one of"),
    ],
)
def test_text_files_that_are_amiss(
    tmp_path: Path, task: str, predictions: bytes, references: list[bytes], message: str
) -> None:
    (tmp_path / "p").write_bytes(predictions)
    arguments = ["--task", task, "--predictions", str(tmp_path / "p")]
    for number, content in enumerate(references):
        (tmp_path / f"r{number}").write_bytes(content)
        arguments += ["--references", str(tmp_path / f"r{number}")]
    with pytest.raises(UserError, match=message) as caught:
        command.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "samsun", "--predictions", "p"], "there is no task 'samsun': did you mean samsum"),
        (["--task", "samsum"], "needs --predictions"),
        (["--task", "samsum", "--predictions", "p"], "scored with --references"),
        (["--task", "samsum", "--predictions", "p", "--gold", "g"], "--gold is Spider's"),
        (["--task", "samsum", "--predictions", "none", "--references", "none"], "none does not exist"),
        (
            ["--task", "samsum", "--predictions", "p", "--references", "p", "--data-path", "."],
            "--data-path is read for",
        ),
        (["--task", "spider", "--predictions", "p", "--gold", "g"], "--data-path"),
        (["--task", "spider", "--predictions", "p", "--references", "r", "--data-path", "."], "--gold"),
        (["--task", "samsum", "--predictions", "p", "--references", "a.jsonl", "--references", "b"], "one .jsonl file"),
    ],
)
def test_arguments_that_do_not_fit(
    tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "p", ["a"])
    with pytest.raises(UserError, match=message):
        command.main(arguments)


def test_a_time_limit_that_is_none(club: Path) -> None:
    with pytest.raises(UserError, match=r"task.time_limit must be a positive number"):
        command.main([*spider(club, GOLDS), "task.time_limit=0"])


def test_scoring_needs_no_torch(tmp_path: Path) -> None:
    files = [str(lines(tmp_path / "p.txt", OUTPUTS)), str(lines(tmp_path / "r.txt", REFERENCES))]
    code = (
        "import sys\nfrom ssm_tune.cli import main\n"
        "status = main(['score', '--task', 'samsum', '--predictions', sys.argv[1], '--references', sys.argv[2]])\n"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rougeL " in done.stdout


def test_spiders_predictions_as_json_lines(club: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a run leaves them, in any order; without ids by line. A tab or a line end in an output is a blank of its."""
    arguments = spider(club, GOLDS)
    outputs = ["SELECT\tname\nFROM singer", "no idea", GOLDS[2]]
    named = [{"id": str(number), "output": output} for number, output in enumerate(outputs)]
    plain = [{"prediction": output} for output in outputs]
    for name, rows in (("a.jsonl", named[::-1]), ("b.JSONL", named), ("c.Jsonl", plain)):
        arguments[3] = str(jsonl(club / name, rows))
        values = scored(capsys, *arguments)["values"]
        assert (values["exact"], values["execution"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    for rows, message in (
        (named[:2], r"gold.txt line 3: no prediction for id '2' \(1 missing\)"),
        ([*named, {"id": "3", "output": ""}], "d.jsonl line 4: the references have no id '3'"),
        (plain[:2], "there are 2 predictions for 3 references"),
        ([{"query": "SELECT"}], 'd.jsonl line 1: no text under "output"'),
    ):
        arguments[3] = str(jsonl(club / "d.jsonl", rows))
        with pytest.raises(UserError, match=message):
            command.main(arguments)


def test_blank_lines_at_the_end_of_spiders_gold(club: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are no questions; a blank line of the predictions is an answer, and none too many."""
    arguments = spider(club, [*GOLDS[:2], ""])
    with open(club / "gold.txt", "ab") as file:
        file.write(b"\n \r\n\n")
    found = scored(capsys, *arguments)
    assert found["n"] == 3
    assert found["values"]["exact"] == pytest.approx(2 / 3)
    lines(club / "pred.txt", [*GOLDS, ""])
    with pytest.raises(UserError, match="there are 4 predictions for 3 references"):
        command.main(arguments)


def test_a_byte_order_mark_is_no_text(club: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = b"\xef\xbb\xbf"
    answers, labels = lines(tmp_path / "p.txt", ["0", "1"]), lines(tmp_path / "r.txt", ["0", "1"])
    rows = jsonl(tmp_path / "p.jsonl", [{"output": "0"}, {"output": "1"}])
    for file in (answers, labels, rows):
        file.write_bytes(mark + file.read_bytes())
    for predictions in (answers, rows):
        found = scored(capsys, "--task", "glue_rte", "--predictions", predictions, "--references", labels)
        assert found["values"]["accuracy"] == 1.0
    arguments = spider(club, GOLDS)
    for name in ("pred.txt", "gold.txt"):
        (club / name).write_bytes(mark + (club / name).read_bytes())
    assert scored(capsys, *arguments)["values"]["exact"] == 1.0


def test_without_wordnet_the_way_on_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UserError("there is no WordNet")

    monkeypatch.setattr("ssm_tune.tasks.dart.require_wordnet", absent)
    files = ["--predictions", str(lines(tmp_path / "p", ["a"])), "--references", str(lines(tmp_path / "r", ["a"]))]
    with pytest.raises(UserError, match=r"no WordNet; or add task\.wordnet=off"):
        command.main(["--task", "dart", *files])
    assert command.main(["--task", "dart", "task.wordnet=off", *files]) == 0
