"""Names to folders; the hub's side by the real client against a small server of the hub's interface."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ssm_tune.errors import UserError
from ssm_tune.models import source
from ssm_tune.models.source import PretrainedSource, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WANTED = [["config.json", "model.safetensors", "model-*.safetensors"], ["config.json", "pytorch_model.bin"]]
REPOSITORIES = {
    "org/both": {
        "config.json": b"{}",
        "model.safetensors": b"S",
        "pytorch_model.bin": b"B",
        "run.py": b"code",
    },
    "org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"B"},
    "org/shards": {"config.json": b"{}", "model-00001-of-00001.safetensors": b"S", "pytorch_model.bin": b"B"},
}


class Hub(BaseHTTPRequestHandler):
    """The calls that snapshot_download makes: a revision's commit, its tree, and files."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        repository, kind, revision = "/".join(parts[:2]), parts[2], parts[3] if len(parts) > 3 else "main"
        files = REPOSITORIES.get(repository)
        if repository == "org/gated":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif files is None:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif not api:
            self.file(files["/".join(parts[4:])])
        elif kind == "tree":
            self.json([self.entry(name, content) for name, content in files.items()])
        else:
            self.json({"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})

    do_HEAD = do_GET

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, content: bytes) -> None:
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": etag})

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


ASK = """
import json, sys
from ssm_tune.errors import UserError
from ssm_tune.models.source import resolve
assert "torch" not in sys.modules
for name, revision in json.loads(sys.argv[1]):
    try:
        found = resolve(name, revision, json.loads(sys.argv[2]))
        answer = [found.revision, sorted(p.name for p in found.folder.iterdir())]
    except UserError as error:
        answer = [str(error)]
    print("answer", json.dumps(answer))
"""


def ask(endpoint: str, cache: Path, *questions: tuple[str, str | None]) -> list[list[Any]]:
    """Resolve in a fresh process, as the client reads its endpoint once, when imported."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept.pop("HF_TOKEN", None)
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", ASK, json.dumps(questions), json.dumps(WANTED)]
    root = Path(source.__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("answer ")]
    for question, answer in zip(questions, answers, strict=True):
        print(question, answer)
    return answers


def test_from_the_hub_and_then_from_its_cache(tmp_path: Path) -> None:
    questions = [("org/both", None), ("org/both", COMMIT), ("org/pickled", "main"), ("org/shards", None)]
    expected = [
        [COMMIT, ["config.json", "model.safetensors"]],  # safetensors preferred, code never fetched
        [COMMIT, ["config.json", "model.safetensors"]],
        [COMMIT, ["config.json", "pytorch_model.bin"]],
        [COMMIT, ["config.json", "model-00001-of-00001.safetensors"]],
    ]
    with hub() as endpoint:
        assert ask(endpoint, tmp_path, *questions) == expected
    assert ask(closed_port(), tmp_path, *questions) == expected


def test_what_the_hub_does_not_have(tmp_path: Path) -> None:
    questions = [("org/none", None), ("org/both", "v9"), ("org/gated", None)]
    with hub() as endpoint:
        none, revision, gated = (answer[0] for answer in ask(endpoint, tmp_path, *questions))
    assert "org/none" in none
    assert "no such repository" in none
    assert "org/both" in revision
    assert "no revision 'v9'" in revision
    assert "org/gated" in gated
    assert "hf auth login" in gated
    assert not any("\n" in message for message in (none, revision, gated))


def test_an_unreachable_hub_names_the_way_to_work_offline(tmp_path: Path) -> None:
    ((message,),) = ask(closed_port(), tmp_path, ("org/both", None))
    assert "org/both" in message
    assert "cannot be reached" in message
    assert "model=tiny data=sample" in message
    assert "local folder" in message
    assert "\n" not in message


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
