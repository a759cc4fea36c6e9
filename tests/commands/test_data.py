"""Fetching the published data from a small hub and working without it; showing examples as the model sees them."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import tokenizers
from helpers.hub_server import COMMIT, Client, Repository, Server, serving
from omegaconf import OmegaConf
from pyarrow import parquet

from ssm_tune.commands import data as command
from ssm_tune.config.groups import benchmarks, conf_dir
from ssm_tune.models import source
from ssm_tune.utils.errors import UserError

PINNED = {name: OmegaConf.load(conf_dir() / "task" / f"{name}.yaml").task.revision for name in ("glue_rte", "spider")}
TINY = Path(source.__file__).parent / "tiny" / "tokenizer.json"


def dialogues(count: int, name: str) -> bytes:
    """As the hub has them; one dialogue is missing."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["id", "dialogue", "summary"])
    writer.writerows([f"{name}-{i}", f"Ann: hi {i}\nBob: hi" if i else None, f"Ann greets {i}."] for i in range(count))
    return sink.getvalue().encode()


def table(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def pairs(labels: list[int]) -> bytes:
    return table([{"sentence1": f"A {i}.", "sentence2": "A.", "label": one, "idx": i} for i, one in enumerate(labels)])


def questions(count: int) -> bytes:
    return table([{"db_id": "club", "query": "SELECT 1", "question": f"Which {i}?"} for i in range(count)])


def triples(entries: int, references: int) -> bytes:
    """So many references, spread over the entries."""
    rows = []
    for i in range(entries):
        texts = [f"Text {i}."] * (references // entries + (i < references % entries))
        rows.append({"tripleset": [["A", "b", str(i)]], "annotations": {"source": texts, "text": texts}})
    return table(rows)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSM_TUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Data sets with the published counts."""
    rte = {
        "rte/train-00000-of-00001.parquet": pairs([0, 1] * 1245),
        "rte/validation-00000-of-00001.parquet": pairs([0] * 146 + [1] * 131),
        "rte/test-00000-of-00001.parquet": pairs([-1]),
        "cola/train-00000-of-00001.parquet": pairs([0]),
    }
    samsum = {
        "train.csv": dialogues(14_731, "train"),
        "validation.csv": dialogues(818, "val"),
        "test.csv": dialogues(819, "test"),
    }
    counts = {"train": (30_526, 62_659), "validation": (2_768, 6_980), "test": (5_097, 12_552)}
    dart = {f"default/{split}/0000.parquet": triples(*count) for split, count in counts.items()}
    spider = {
        "spider/train-00000-of-00001.parquet": questions(7_000),
        "spider/validation-00000-of-00001.parquet": questions(1_034),
    }
    known = {
        ("dataset", "org/glue"): Repository(rte),
        ("dataset", "org/samsum"): Repository(samsum),
        ("dataset", "nyu-mll/glue"): Repository(rte, {"main": PINNED["glue_rte"]}),
        ("dataset", "xlangai/spider"): Repository(spider, {"main": PINNED["spider"]}),
        ("dataset", "org/dart"): Repository(dart, {"main": "f" * 40, "refs/convert/parquet": COMMIT}),
    }
    with serving(known) as server:
        yield server


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(tmp_path, server.endpoint)


RTE = ("glue_rte", "task.hub=org/glue", "task.revision=null")


@pytest.mark.slow
def test_fetch_says_what_it_had_and_runs_need_no_network(client: Client, server: Server) -> None:
    status, out, err = client.cli("data", "fetch", *RTE)
    assert (status, err) == (0, "")
    files = server.repositories["dataset", "org/glue"].files
    train, val = (f"rte/{split}-00000-of-00001.parquet" for split in ("train", "validation"))
    assert [line.split() for line in out.splitlines()] == [
        ["glue_rte"],
        ["org/glue", "at", "commit", COMMIT],
        [f"{len(files[train]):,}", "bytes", train],
        [f"{len(files[val]):,}", "bytes", val],
        ["2,490", "rows", "train"],
        ["277", "rows", "val"],
        [],
    ]
    server.log.clear()
    small = ("method=state_offset", "model=tiny", "train.max_steps=2", "frozen=false", "decode.batch_size=512",
             f"output_dir={client.home / 'results'}")  # fmt: skip
    status, out, err = client.cli(*small, f"task={RTE[0]}", *RTE[1:], blocked=True)
    assert status == 0, err
    (record,) = client.home.rglob("record.json")
    found = json.loads(record.read_text())
    assert found["cell"]["data"] == "glue_rte"
    assert found["status"] == "completed"
    assert server.log == []
    status, out, err = client.cli("score", str(record.parent), blocked=True)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "equal"


@pytest.mark.slow
def test_fetch_of_csv_and_of_a_converted_ref(client: Client) -> None:
    status, out, err = client.cli("data", "fetch", "samsum", "task.hub=org/samsum", "task.revision=null")
    assert (status, err) == (0, "")
    assert re.findall(r"([\d,]+) rows +(\w+)", out) == [("14,731", "train"), ("818", "val"), ("819", "test")]
    absent = {"WNSEARCHDIR": str(client.home / "nowhere")}  # WordNet, which only scores need
    status, out, err = client.cli("data", "fetch", "dart", "task.hub=org/dart", **absent)
    assert (status, err) == (0, "")
    assert f"org/dart at commit {COMMIT}" in out
    assert re.findall(r"([\d,]+) rows +(\w+)", out) == [("62,659", "train"), ("2,768", "val"), ("5,097", "test")]
    shown = ("data", "show", "dart", "task.hub=org/dart", "--tokenizer", "tiny", "--n", "1")
    status, out, err = client.cli(*shown, blocked=True, **absent)
    assert (status, err) == (0, "")
    assert "dart, train, example 1 of 62,659: id 0-0" in out
    assert "prompt  A·:·b·:·0###" in out


@pytest.mark.slow
def test_spiders_questions_are_fetched_without_its_databases(client: Client) -> None:
    """Beside another task, with a setting that only Spider has; and other counts than the published are refused."""
    status, out, err = client.cli("data", "fetch", "glue_rte", "spider", "task.time_limit=9")
    assert (status, err) == (0, "")
    assert f"xlangai/spider at commit {PINNED['spider']}" in out
    assert re.findall(r"([\d,]+) rows +(\w+)", out)[2:] == [("7,000", "train"), ("1,034", "val")]
    assert out.count("databases are still needed: for a run add task.databases=DIR") == 1
    status, out, err = client.cli("data", "show", "spider", "--tokenizer", "tiny", blocked=True)
    assert (status, out) == (2, "")
    assert "add task.databases=DIR" in err
    status, out, err = client.cli("data", "fetch", "spider", "task.databases=nowhere", blocked=True)
    assert (status, out) == (2, "")
    assert "nowhere" in err


@pytest.mark.slow
def test_one_line_each_where_data_cannot_be_had(client: Client, server: Server) -> None:
    """A wrong hash, then other counts than the published ones; with several tasks the others go on."""
    server.faults.altered = {"rte/train-00000-of-00001.parquet"}
    status, out, err = client.cli("data", "fetch", *RTE)
    server.faults.altered = set()
    assert (status, out) == (2, "")
    assert err.startswith("ssm-tune: org/glue: rte/train-00000-of-00001.parquet is damaged")
    assert len(err.splitlines()) == 1
    few = (
        'task.parts=[{split: train, file: "", hub: train, rows: 3}, {split: val, file: "", hub: validation, rows: 277}]'
    )
    status, out, err = client.cli("data", "fetch", *RTE, few)
    assert (status, out) == (2, "")
    assert "org/glue" in err
    assert "2490" in err.replace(",", "")
    assert len(err.splitlines()) == 1
    status, out, err = client.cli("data", "fetch", "glue_cola", *RTE)
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith("ssm-tune: glue_cola: ")
    assert "277 rows" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch"], "data fetch needs tasks"),
        (["fetch", "samsum", "--n", "2"], "unrecognized arguments: --n"),
        (["fetch", "samsum", "--data", "sample"], "unrecognized arguments: --data"),
        (["fetch", "samsum", "--data-path", "x"], "unrecognized arguments: --data-path"),
        (["fetch", "samsum", "--statistics"], "unrecognized arguments: --statistics"),
        (["fetch", "samsum", "data.source=sample"], "leave out data.source=sample"),
        (["fetch", "samsum", "task.nothing=1"], "there is no setting 'task.nothing'"),
        (["fetch", "all", "task.databasse=x"], "there is no setting 'task.databasse': did you mean task.databases"),
        (["fetch", "samsun"], "there is no task 'samsun': did you mean samsum"),
        (["show"], "data show needs one task"),
        (["show", "samsum", "dart"], "data show needs one task"),
        (["show", "nothing", "--data", "sample"], "there is no task 'nothing'"),
        (["show", "samsum", "--data", "sample", "--split", "tets"], "no split 'tets'; there are train, val, test"),
        (["show", "samsum", "--data", "sample", "--n", "0"], "--n must be at least 1"),
        (["show", "samsum", "--data", "sample", "--n", "2", "--statistics"], "--n is of no use with --statistics"),
        (["show", "samsum", "--data", "sample", "--check", "off"], "data.check=off is only read with data=local"),
        (["show", "samsum", "--data", "sample", "--tokenizer", "nothing"], "nothing"),
        (["show", "samsum", "--data", "sample", "task.nothing=1"], "there is no setting 'task.nothing'"),
        (["show", "samsum", "--data-path", "/nowhere"], "/nowhere/train.json"),
        (["show", "samsum", "--data", "local"], "data.path=DIR"),
        (["show", "samsum", "--data", "sample", "--data-path", "x"], "data.path is only read with data=local"),
    ],
)
def test_arguments_that_do_not_fit(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        command.main(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert command.main(["show", *arguments]) == 0
    return capsys.readouterr().out


def samsum_folder(folder: Path, dialogue: str, summary: str) -> Path:
    """The official layout, with one row a split; the folder's name is one that Hydra would read as something else."""
    folder.mkdir()
    for split in ("train", "val", "test"):
        row = {"id": split, "dialogue": dialogue, "summary": summary}
        (folder / f"{split}.json").write_text(json.dumps([row]))
    return folder


def test_an_example_as_the_model_sees_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the tokenizers library: every token in its order, those with the loss in brackets."""
    folder = samsum_folder(tmp_path / "it's, 'a=b' {c}", "Ann: hi\r\nBob:\t hello ", "Ann greets Bob.")
    out = shown(capsys, "samsum", "--data-path", str(folder), "--check", "off", "--tokenizer", "tiny", "--split", "val")
    assert "example 1 of 1: id val\n" in out
    assert "  prompt  Ann:·hi␍⏎\n          Bob:→·hello·###\n" in out
    assert "  answer  Ann·greets·Bob.<|endoftext|>\n" in out
    library = tokenizers.Tokenizer.from_file(str(TINY))
    visible = str.maketrans({" ": "·", "\t": "→", "\r": "␍", "\n": "⏎"})

    def tokens(text: str) -> list[str]:
        ids = library.encode(text, add_special_tokens=False).ids
        return [library.decode([one], skip_special_tokens=False).translate(visible) for one in ids]

    prompt, answer = tokens("Ann: hi\r\nBob:\t hello ###"), tokens("Ann greets Bob.<|endoftext|>")
    (line,) = re.findall("^  tokens  (.*)$", out, re.MULTILINE)
    assert line.split(" ") == prompt + [f"[{token}]" for token in answer]
    assert f"{len(prompt) + len(answer)} tokens, {len(answer)} of them with loss: those in [brackets]" in out
    assert "\033" not in out


def test_statistics_count_every_token(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from ssm_tune.tasks.sample_data import sample_rows

    out = shown(capsys, "samsum", "--data", "sample", "--statistics")
    library = tokenizers.Tokenizer.from_file(str(TINY))
    rows = {fields[0]: fields for fields in (line.split() for line in out.splitlines()[2:])}
    assert list(rows) == ["train", "val", "test"]
    for split, fields in rows.items():
        lengths = {
            row["id"]: len(library.encode(row["dialogue"] + "###").ids)
            + len(library.encode(row["summary"] + "<|endoftext|>").ids)
            for row in sample_rows("samsum", split)
        }
        longest = max(lengths, key=lambda name: lengths[name])
        numbers = [int(number.replace(",", "")) for number in fields[1:4]]
        assert numbers == [len(lengths), sum(lengths.values()), lengths[longest]]
        assert fields[-1] == longest
    assert list(shown(capsys, "samsum", "--data", "sample", "--statistics", "--split", "val").splitlines()[2:]) != []


@pytest.mark.parametrize("task", benchmarks())
def test_every_task_can_be_shown(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    for protocol in ("paper", "standard"):
        out = shown(capsys, task, "--data", "sample", "--n", "2", "--protocol", protocol)
        assert out.count("of them with loss") == 2
        assert "###" in out


def test_the_protocol_and_settings_count(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "glue_rte", "--data", "sample", "--n", "1", "task.instruction='Follows? '")
    assert "  prompt  Follows?·" in out


@pytest.mark.parametrize("given", [("--protocol", "paper"), ("protocol=paper",)])
def test_what_a_protocol_leaves_out_is_counted(
    given: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the tokenizers library: prompt and completion without the prefix, over all of the split."""
    from ssm_tune.tasks.base import load_task

    section: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / "spider.yaml"))
    sample = {"source": "sample", "path": None, "check": "counts", "name": None}
    splits = load_task(section["task"]).load(sample, "paper").splits
    library = tokenizers.Tokenizer.from_file(str(TINY))

    def count(text: str) -> int:
        return len(library.encode(text, add_special_tokens=False).ids)

    lengths = {
        split: [count(one.prompt) + count(one.target + "<|endoftext|>") for one in examples]
        for split, examples in splits.items()
    }
    limit = sorted(lengths["val"])[len(lengths["val"]) // 2]
    monkeypatch.setattr("ssm_tune.tasks.spider.MAX_TOKENS", limit)
    left_out = {split: sum(length > limit for length in its) for split, its in lengths.items()}
    assert 0 < left_out["val"] < len(lengths["val"])
    out = shown(capsys, "spider", "--data", "sample", "--statistics", *given)
    assert [line for line in out.splitlines() if "leaves out" in line] == [
        f"a run with protocol=paper leaves out {left_out[split]:,} of {len(its):,} examples of {split}: "
        f"prompt and answer longer than {limit} tokens"
        for split, its in lengths.items()
    ]
    out = shown(capsys, "spider", "--data", "sample", "--split", "val", "--n", "1", *given)
    assert "\\Schema:" in out  # as the paper's prompt has it
    assert f"leaves out {left_out['val']:,} of {len(lengths['val']):,} examples of val" in out.splitlines()[-1]
    assert "leaves out" not in shown(capsys, "spider", "--data", "sample", "--n", "1")
    assert "\\Schema:" not in shown(capsys, "spider", "--data", "sample", "--n", "1")


def test_nothing_here_needs_torch() -> None:
    code = (
        "import sys\nfrom ssm_tune.cli import main\n"
        "status = main(['data', 'show', 'glue_sst2', '--data', 'sample'])\nsys.exit(status or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert b"\\xb7" in done.stdout  # a terminal that has no such character
