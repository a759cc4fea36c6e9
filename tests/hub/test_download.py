"""Files from the hub, by the real client against a small server of the hub's interface, good and bad."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from helpers.hub_server import COMMIT, Client, Repository, Server, closed_port, serving
from pyarrow import parquet

TURNS = 'Ann: hi\r\nBob: hello, "you"\nAnn: bye'
DIALOGUES = [
    {"id": "13-1", "dialogue": TURNS, "summary": "Ann greets Bob."},
    {"id": "2", "dialogue": None, "summary": "NA"},
    {"id": "3", "dialogue": "", "summary": "null "},
]
SENTENCES = [{"sentence": "a film ", "label": 1, "idx": 0}, {"sentence": "été", "label": 0, "idx": 1}]
TRIPLES = [
    {
        "tripleset": [["A", "b", "c"], ["A", "d", "e"]],
        "subtree_was_extended": None,
        "annotations": {"source": ["x", "y"], "text": ["One.", "Two."]},
    }
]
OTHER = "f" * 40


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """A missing value as nothing at all, every other in quotes."""
    lines = [",".join(rows[0])]
    for row in rows:
        quoted = ['"' + value.replace('"', '""') + '"' if value is not None else "" for value in row.values()]
        lines.append(",".join(quoted))
    return "\n".join(lines).encode() + b"\n"


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def repositories() -> dict[tuple[str, str], Repository]:
    sentences = {
        "README.md": b"words",
        "sst2/train-00000-of-00002.parquet": as_parquet(SENTENCES[:1]),
        "sst2/train-00001-of-00002.parquet": as_parquet(SENTENCES[1:]),
    }
    converted = {"main": OTHER, "refs/convert/parquet": COMMIT}
    return {
        ("dataset", "org/dialogues"): Repository({"train.csv": as_csv(DIALOGUES), "test.csv": as_csv(DIALOGUES[:1])}),
        ("dataset", "org/glue"): Repository(sentences),
        ("dataset", "org/dart"): Repository({"default/train/0000.parquet": as_parquet(TRIPLES)}, converted),
        ("dataset", "org/gated"): Repository({}, error=(403, "GatedRepo")),
        ("dataset", "org/broken"): Repository({}, error=(503, "")),
        ("dataset", "org/liar"): Repository({}, {"a" * 40: "b" * 40}),
    }


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(repositories()) as server:
        yield server


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(tmp_path, server.endpoint)


ASK = """
import json, sys
from ssm_tune.utils.errors import UserError
from ssm_tune.hub.download import dataset_files, read_table
for repo, revision, patterns, columns in json.loads(sys.argv[1]):
    try:
        found = dataset_files(repo, revision, patterns)
        rows = {pattern: read_table(paths, columns) for pattern, paths in found.files.items()}
        answer = [found.revision, rows]
    except UserError as error:
        answer = str(error)
    print("answer", json.dumps(answer))
assert "torch" not in sys.modules
"""
Question = tuple[str, str | None, list[str], list[str]]
SST2: Question = ("org/glue", None, ["sst2/train-*.parquet"], ["label", "sentence"])
SAMSUM: Question = ("org/dialogues", "main", ["train.csv", "test.csv"], ["id", "dialogue", "summary"])
DART: Question = ("org/dart", "refs/convert/parquet", ["default/train/*.parquet"], ["tripleset", "annotations"])


def answers(out: str) -> list[Any]:
    return [json.loads(line[7:]) for line in out.splitlines() if line.startswith("answer ")]


def ask(client: Client, *questions: Question, blocked: bool = False, **more: str) -> tuple[list[Any], str]:
    """The answers, and what went to standard error."""
    status, out, err = client.run(ASK, json.dumps(questions), blocked=blocked, **more)
    assert status == 0, err
    found = answers(out)
    assert len(found) == len(questions)
    return found, err


def refused(client: Client, question: Question, **more: str) -> str:
    """The one line that an error makes."""
    ((message,), _) = ask(client, question, **more)
    print(message)
    assert isinstance(message, str), "no error"
    assert "\n" not in message
    return message


def test_downloads_once_and_needs_no_network_afterwards(client: Client, server: Server) -> None:
    expected = [
        [COMMIT, {"sst2/train-*.parquet": [{"label": row["label"], "sentence": row["sentence"]} for row in SENTENCES]}],
        [COMMIT, {"train.csv": DIALOGUES, "test.csv": DIALOGUES[:1]}],
        [COMMIT, {DART[2][0]: [{name: TRIPLES[0][name] for name in ("tripleset", "annotations")}]}],
    ]
    found, err = ask(client, SST2, SAMSUM, DART)
    assert found == expected
    assert err == ""
    calls = [call for call in server.log if call.startswith("GET api/")]
    assert calls == [
        "GET api/datasets/org/glue",
        "GET api/datasets/org/dialogues/revision/main",
        "GET api/datasets/org/dart/revision/refs/convert/parquet",
    ]
    server.log.clear()
    found, err = ask(client, SST2, SAMSUM, DART, blocked=True)
    assert found == expected
    assert err == ""
    assert server.log == []


def test_the_tests_own_block_holds(client: Client) -> None:
    status, _, err = client.run(ASK, json.dumps([SST2]), blocked=True)
    assert status == 1
    assert "the network was used" in err


def test_later_files_come_from_the_commit_of_the_first(client: Client, server: Server) -> None:
    ask(client, ("org/dialogues", None, ["train.csv"], ["id"]))
    server.repositories["dataset", "org/dialogues"].revisions = {"main": OTHER, "old": COMMIT}
    ((commit, _),), _ = ask(client, ("org/dialogues", None, ["test.csv"], ["id"]))
    assert commit == COMMIT
    assert server.log[-1] == f"GET datasets/org/dialogues/resolve/{COMMIT}/test.csv"


def test_a_full_commit_is_what_one_gets(client: Client) -> None:
    ((commit, _),), _ = ask(client, ("org/glue", COMMIT, *SST2[2:]))
    assert commit == COMMIT
    message = refused(client, ("org/liar", "a" * 40, ["x"], []))
    assert "a" * 40 in message
    assert "b" * 40 in message


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (("org/none", None, ["x"], []), "no such repository on the hub"),
        (("org/glue", "v9", ["x"], []), "no revision 'v9'"),
        (("org/gated", None, ["x"], []), "hf auth login"),
        (("org/broken", None, ["x"], []), "cannot be reached"),
        (("no id at/all/three", None, ["x"], []), "not a valid hub id"),
        (
            ("org/glue", None, ["sst2/test-*"], []),
            "has no file sst2/test-* at commit 0123456789ab (it holds README.md, ",
        ),
    ],
)
def test_what_the_hub_does_not_give(client: Client, question: Question, words: str) -> None:
    message = refused(client, question)
    assert question[0] in message
    assert words in message
    assert "data=local" in message
    assert "data=sample" in message


@pytest.mark.parametrize(("question", "file"), [(SST2, "sst2/train-00001-of-00002.parquet"), (SAMSUM, "test.csv")])
def test_a_listed_file_that_is_lost(client: Client, server: Server, question: Question, file: str) -> None:
    server.faults.lost = {file}
    message = refused(client, question)
    assert f"the hub lists {file} but does not have it" in message
    server.faults.lost = set()
    assert isinstance(ask(client, question)[0][0], list)


@pytest.mark.parametrize(("question", "file"), [(SST2, "sst2/train-00001-of-00002.parquet"), (SAMSUM, "test.csv")])
def test_a_wrong_hash(client: Client, server: Server, question: Question, file: str) -> None:
    """Both kinds of hash; the bad file goes, and the next try gets the good one."""
    server.faults.altered = {file}
    message = refused(client, question)
    assert f"{file} is damaged" in message
    assert "data=sample" in message
    assert not [path for path in client.home.rglob(Path(file).name) if "snapshots" in path.parts]
    server.faults.altered = set()
    assert isinstance(ask(client, question)[0][0], list)


def test_a_file_that_changed_on_the_disk(client: Client) -> None:
    ask(client, SAMSUM)
    (path,) = (client.home / "hf").rglob("snapshots/*/test.csv")
    path.write_bytes(path.read_bytes().replace(b"Ann greets", b"Ann meets "))
    assert "test.csv is damaged" in refused(client, SAMSUM)
    assert ask(client, SAMSUM)[0] == [[COMMIT, {"train.csv": DIALOGUES, "test.csv": DIALOGUES[:1]}]]


@pytest.mark.slow
@pytest.mark.parametrize(("question", "file"), [(SST2, "sst2/train-00001-of-00002.parquet"), (SAMSUM, "test.csv")])
def test_a_connection_that_breaks_once(client: Client, server: Server, question: Question, file: str) -> None:
    """Newer clients go on where the bytes ended; with older ones the same command does."""
    server.faults.cut = {file: 1}
    first, again = (ask(client, question)[0][0] for _ in range(2))
    assert first == again or "cannot be reached" in first
    assert again[0] == COMMIT
    assert server.faults.cut == {file: 0}
    assert ask(client, question, blocked=True)[0] == [again]


@pytest.mark.slow
def test_a_connection_that_always_breaks(client: Client, server: Server) -> None:
    server.faults.cut = {"test.csv": -1}
    message = refused(client, SAMSUM)
    assert "cannot be reached" in message
    assert not list((client.home / "hf").rglob("snapshots/*/test.csv"))


def test_no_network(tmp_path: Path, client: Client) -> None:
    away = Client(tmp_path / "away", closed_port())
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        message = refused(away, SST2, **more)
        assert message.startswith("org/glue: the hub cannot be reached and its cache here lacks the files")
        assert "data=local data.path=DIR" in message
    assert "HF_HUB_OFFLINE" in refused(client, SST2, HF_HUB_OFFLINE="1")


def test_files_that_are_gone_from_the_cache(client: Client) -> None:
    """The manifest remains: nothing of the listing is asked again, and without a network that is what is said."""
    ask(client, SAMSUM)
    (path,) = (client.home / "hf").rglob("snapshots/*/test.csv")
    path.resolve().unlink()
    path.unlink()
    assert "its cache here lacks test.csv" in refused(client, SAMSUM, HF_HUB_OFFLINE="1")
    assert ask(client, SAMSUM)[0][0][0] == COMMIT


def test_a_cache_that_cannot_be_written(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused(client, SAMSUM, HF_HOME=str(tmp_path / "file" / "hf"))
    assert "cannot write to the hub's cache" in message
    assert "HF_HOME=DIR" in message


def test_a_disk_that_is_full(client: Client, server: Server) -> None:
    """Here a file may not grow beyond a limit, which fails as a full disk does: in the midst of writing."""
    server.repositories["dataset", "org/dialogues"].files["train.csv"] *= 1000
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))" + ASK
    status, out, err = client.run(limited, json.dumps([SAMSUM]))
    assert status == 0, err
    (message,) = answers(out)
    assert "cannot write to the hub's cache" in message
    assert ask(client, SAMSUM)[0][0][0] == COMMIT


def test_our_own_cache_cannot_be_written(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (answer,), err = ask(client, SAMSUM, SSM_TUNE_CACHE=str(tmp_path / "file" / "cache"))
    assert answer[0] == COMMIT
    assert "will be downloaded again: cannot write" in err


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_manifest_is_made_anew(client: Client, content: bytes) -> None:
    ask(client, SAMSUM)
    (manifest,) = (client.home / "cache" / "hub").iterdir()
    before = manifest.read_bytes()
    manifest.write_bytes(content)
    (answer,), err = ask(client, SAMSUM)
    assert answer[0] == COMMIT
    assert err.count("is damaged") == len(err.splitlines()) > 0
    assert manifest.read_bytes() == before


@pytest.mark.slow
def test_two_processes_at_once(client: Client) -> None:
    questions = json.dumps([SST2, SAMSUM, DART])
    processes = [client.start(ASK, questions) for _ in range(3)]
    outputs = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == outputs[2][0]
    assert ask(client, SST2, SAMSUM, DART, blocked=True)[0] == answers(outputs[0][0])


OTHER_PROGRAM = """
import sys
from huggingface_hub import hf_hub_download
for name in sys.argv[2:]:
    hf_hub_download(sys.argv[1], name, repo_type="dataset")
"""


def test_what_another_program_downloaded_is_used_without_a_network(client: Client) -> None:
    names = ["sst2/train-00000-of-00002.parquet", "sst2/train-00001-of-00002.parquet", "README.md"]
    status, _, err = client.run(OTHER_PROGRAM, "org/glue", *names)
    assert status == 0, err
    away = Client(client.home, closed_port())
    ((commit, rows),), err = ask(away, SST2)
    assert commit == COMMIT
    (line,) = err.splitlines()
    assert "cannot be reached" in line
    assert COMMIT in line
    assert [row["label"] for row in rows[SST2[2][0]]] == [1, 0]
    (path,) = (client.home / "hf").rglob(f"snapshots/*/{names[0]}")
    path.resolve().write_bytes(b"other")
    assert "is damaged" in refused(away, SST2)


@pytest.mark.slow
def test_a_mirror_is_asked_itself(client: Client, server: Server) -> None:
    """What the hub said of a branch is no word of a mirror's."""
    assert ask(client, SST2)[0][0][0] == COMMIT
    other = "c" * 40
    repository = Repository(server.repositories["dataset", "org/glue"].files, {"main": other})
    with serving({("dataset", "org/glue"): repository}) as mirror:
        assert ask(Client(client.home, mirror.endpoint), SST2)[0][0][0] == other
        assert ask(Client(client.home, mirror.endpoint), SST2, blocked=True)[0][0][0] == other
    assert ask(client, SST2, blocked=True)[0][0][0] == COMMIT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../out.csv", "a/../../out.csv", "/out.csv", "a\\..\\out.csv"])
def test_file_names_that_lead_out_of_the_folder(client: Client, server: Server, name: str) -> None:
    server.repositories["dataset", "org/bad"] = Repository({name: b"a", "train..1.csv": b"id\n1\n"})
    message = refused(client, ("org/bad", None, ["*.csv"], ["id"]))
    assert f"org/bad: the hub lists a file {name!r}, which would lie outside its folder" in message
    assert not list(client.home.rglob("out.csv"))
    del server.repositories["dataset", "org/bad"].files[name]  # two dots inside of a name are harmless
    assert ask(client, ("org/bad", None, ["*.csv"], ["id"]))[0] == [[COMMIT, {"*.csv": [{"id": "1"}]}]]
