"""Names to folders; the hub's side by the real client against a small server of the hub's interface."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hub_server import COMMIT, Client, Repository, Server, closed_port, serving
from helpers.random_checkpoints import oracle, write_state_spaces_bin

from ssm_tune.models import source
from ssm_tune.models.source import PretrainedSource, resolve
from ssm_tune.utils.errors import UserError

WANTED = [["config.json", "model.safetensors", "model-*.safetensors"], ["config.json", "pytorch_model.bin"]]
REPOSITORIES = {
    "org/both": {
        "config.json": b"{}",
        "model.safetensors": b"S",
        "pytorch_model.bin": b"B",
        "run.py": b"code",
        "other/config.json": b"{}",
    },
    "org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"B"},
    "org/shards": {"config.json": b"{}", "model-00001-of-00001.safetensors": b"S", "pytorch_model.bin": b"B"},
    "org/bare": {"config.json": b"{}", "README.md": b"words"},
}


@pytest.fixture
def server() -> Iterator[Server]:
    known = {("model", name): Repository(files) for name, files in REPOSITORIES.items()}
    known["model", "org/gated"] = Repository({}, error=(403, "GatedRepo"))
    with serving(known) as server:
        yield server


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(tmp_path / "home", server.endpoint)


ASK = """
import json, sys
from ssm_tune.utils.errors import UserError
from ssm_tune.models.source import resolve
for name, revision in json.loads(sys.argv[1]):
    try:
        found = resolve(name, revision, json.loads(sys.argv[2]))
        answer = [found.revision, sorted(p.name for p in found.folder.iterdir())]
    except UserError as error:
        answer = [str(error)]
    print("answer", json.dumps(answer))
assert "torch" not in sys.modules
"""


def answers(out: str) -> list[Any]:
    return [json.loads(line[7:]) for line in out.splitlines() if line.startswith("answer ")]


def ask(client: Client, *questions: tuple[str, str | None], blocked: bool = False, **more: str) -> list[list[Any]]:
    """Resolve in a fresh process, as the client reads its endpoint once, when imported."""
    status, out, err = client.run(ASK, json.dumps(questions), json.dumps(WANTED), blocked=blocked, **more)
    assert status == 0, err
    for question, answer in zip(questions, answers(out), strict=True):
        print(question, answer)
    return answers(out)


def test_from_the_hub_and_then_from_its_cache(client: Client, server: Server) -> None:
    questions = [("org/both", None), ("org/both", COMMIT), ("org/pickled", "main"), ("org/shards", None)]
    expected = [
        [COMMIT, ["config.json", "model.safetensors"]],  # safetensors preferred, code never fetched
        [COMMIT, ["config.json", "model.safetensors"]],
        [COMMIT, ["config.json", "pytorch_model.bin"]],
        [COMMIT, ["config.json", "model-00001-of-00001.safetensors"]],
    ]
    assert ask(client, *questions) == expected
    server.log.clear()
    assert ask(client, *questions, blocked=True) == expected
    assert server.log == []


def test_what_the_hub_does_not_have(client: Client) -> None:
    questions = [("org/none", None), ("org/both", "v9"), ("org/gated", None), ("org/bare", None)]
    none, revision, gated, bare = (answer[0] for answer in ask(client, *questions))
    assert "org/none" in none
    assert "no such repository" in none
    assert "org/both" in revision
    assert "no revision 'v9'" in revision
    assert "org/gated" in gated
    assert "hf auth login" in gated
    assert "org/bare has none of model.safetensors, model-*.safetensors, pytorch_model.bin" in bare
    assert not any("\n" in message for message in (none, revision, gated, bare))


def test_an_unreachable_hub_names_the_way_to_work_offline(tmp_path: Path) -> None:
    ((message,),) = ask(Client(tmp_path, closed_port()), ("org/both", None))
    assert "org/both" in message
    assert "cannot be reached" in message
    assert "model=tiny data=sample" in message
    assert "local folder" in message
    assert "\n" not in message


OTHER_PROGRAM = """
from huggingface_hub import snapshot_download
snapshot_download("org/both")
"""


def test_what_another_program_downloaded_is_used_without_a_network(client: Client) -> None:
    status, _, err = client.run(OTHER_PROGRAM)
    assert status == 0, err
    ((commit, names),) = ask(client, ("org/both", None), HF_HUB_OFFLINE="1")
    assert commit == COMMIT
    assert {"config.json", "model.safetensors"} <= set(names)


LOAD = """
import json, sys, torch
from ssm_tune.utils.errors import UserError
from ssm_tune.models.pretrained import from_pretrained
for line in sys.stdin:
    try:
        model = from_pretrained("org/mamba")
        with torch.no_grad():
            answer = model(torch.arange(20)[None])[0].double().abs().sum().item()
    except UserError as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
"""


@contextmanager
def loading(client: Client, blocked: bool = False) -> Iterator[Callable[[], Any]]:
    """A process that calls from_pretrained as often as it is asked to: a number made of the logits, or the error."""
    with client.start(LOAD, blocked=blocked) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def load() -> Any:
            process.stdin.write("again\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            print(answer)
            return json.loads(answer)

        yield load
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_checkpoint_from_a_good_hub_and_a_bad_one(client: Client, server: Server, tmp_path: Path) -> None:
    """from_pretrained: refused with one line, each for its own reason, then loaded, then loaded without a network."""
    model = oracle()
    write_state_spaces_bin(model, tmp_path / "model")
    files = {path.name: path.read_bytes() for path in sorted((tmp_path / "model").iterdir())}
    server.repositories["model", "org/mamba"] = Repository(files)
    with torch.no_grad():
        expected = model(torch.arange(20)[None]).logits[0].double().abs().sum().item()

    with loading(Client(client.home, closed_port())) as load:
        assert "cannot be reached" in load()
    faults = server.faults
    with loading(client) as load:
        faults.lost = {"pytorch_model.bin"}
        assert "the hub lists pytorch_model.bin but does not have it" in load()
        faults.lost, faults.altered = set(), {"pytorch_model.bin"}
        message = load()
        assert "pytorch_model.bin is damaged" in message
        assert "model=tiny" in message
        assert not list(client.home.rglob("snapshots/*/pytorch_model.bin"))
        faults.altered, faults.cut = set(), {"pytorch_model.bin": -1}
        assert "cannot be reached and its cache here lacks pytorch_model.bin" in load()
        faults.cut = {"pytorch_model.bin": 1}
        assert load() == pytest.approx(expected, rel=1e-4)
    server.log.clear()
    with loading(client, blocked=True) as load:
        assert load() == pytest.approx(expected, rel=1e-4)
    assert server.log == []


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one embedded model, and a working directory that holds a folder of the same name."""
    folder = tmp_path / "package" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(source, "EMBEDDED", tmp_path / "package")
    (tmp_path / "work" / "small").mkdir(parents=True)
    (tmp_path / "work" / "own" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_names_and_folders(embedded: Path, tmp_path: Path) -> None:
    assert source.embedded_models() == ["small"]
    assert resolve("small", None, WANTED) == PretrainedSource("small", embedded)
    assert resolve(Path("small"), None, WANTED).folder == Path("small")  # a Path is always a folder
    assert resolve("./small", None, WANTED).folder == Path("small")
    assert resolve("own/model", None, WANTED) == PretrainedSource("own/model", Path("own/model"))
    found = resolve(str(tmp_path), None, WANTED)
    assert resolve(found, None, WANTED) is found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smal", "embedded model (small)"),
        ("./nothing/here", "no such folder"),
        ("/nothing", "no such folder"),
        ("~/surely/not/here", "no such folder"),
        (Path("nothing"), "no such folder"),
        ("a/b/c", "no such folder"),
        ("", "no folder"),
        ("~no-such-user/x", "no such folder"),
        ("x" * 300 + "/" + "y/" * 3000, "no such folder"),
        ("a b", "no hub id"),
    ],
)
def test_names_that_stand_for_nothing(name: str | Path, expected: str, embedded: Path) -> None:
    with pytest.raises(UserError) as caught:
        resolve(name, None, WANTED)
    assert expected in str(caught.value)


def test_a_file_and_a_revision_of_a_folder_are_refused(embedded: Path) -> None:
    with pytest.raises(UserError, match=r"config.json is a file; give the folder"):
        resolve(embedded / "config.json", None, WANTED)
    for name in ("small", "own/model"):
        with pytest.raises(UserError, match="leave out revision=main"):
            resolve(name, "main", WANTED)
