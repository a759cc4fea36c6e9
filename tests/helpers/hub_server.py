"""A small server of the hub's interface, for the real client, and ways to be a bad one.

Spoken are the calls that the client makes for a repository's description (with hashes), its tree, and its files:
small ones as git blobs, large ones as the hub has them, by a redirect to another host.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".parquet", ".bin", ".safetensors")
ROOT = Path(__file__).resolve().parents[2]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob(content: bytes) -> str:
    """What git calls the content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """revisions: what stands for a commit; error: the hub's code of refusal, for every call."""

    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    error: tuple[int, str] | None = None


@dataclass
class Faults:
    """Names of files that are listed but lost, served with other bytes (of the same length), or cut off.

    cut: for each name how often the connection breaks half-way; -1 for always, and then before the first byte.
    """

    lost: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0]).strip("/")
        self.server.log.append(f"{self.command} {path}")
        if found := re.fullmatch(r"cdn/(\w+)/(\w+)/([^/]+/[^/]+)/(.+)", path):
            kind, commit, name, file = found.groups()
            self.content(self.server.repositories[kind, name].files[file], file, {"ETag": f'"{commit}"'})
        elif found := re.fullmatch(r"api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            kind, name, what, revision = found.groups()
            self.described(kind, name, revision or "main", what == "tree")
        elif found := re.fullmatch(r"(datasets/)?([^/]+/[^/]+)/resolve/(.+)", path):
            self.resolved("dataset" if found[1] else "model", found[2], found[3])
        else:
            self.answer(404, b"", {})

    do_HEAD = do_GET

    def repository(self, kind: str, name: str) -> Repository | None:
        """The repository, unless the call was refused already."""
        known = self.server.repositories.get((kind, name))
        error = (404, "RepoNotFound") if known is None else known.error
        if error is not None:
            self.answer(error[0], b"", {"X-Error-Code": error[1]})
            return None
        return known

    def described(self, kind: str, name: str, revision: str, tree: bool) -> None:
        if (repository := self.repository(kind, name)) is None:
            return
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.revisions.values():
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        entries: list[dict[str, Any]] = []
        for file, content in repository.files.items():
            about: dict[str, Any] = {"size": len(content)}
            if file.endswith(LARGE):
                # the hub has two names for one thing
                name_of_hash = "oid" if tree else "sha256"
                about["lfs"] = {name_of_hash: sha256(content), "size": len(content), "pointerSize": 134}
            if tree:
                entries.append({"type": "file", "path": file, "oid": blob(content), **about})
            else:
                entries.append({"rfilename": file, "blobId": blob(content), **about})
        value = entries if tree else {"_id": "1", "id": name, "sha": commit, "siblings": entries}
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def resolved(self, kind: str, name: str, rest: str) -> None:
        if (repository := self.repository(kind, name)) is None:
            return
        known = [*repository.revisions, *repository.revisions.values()]
        revision = max((one for one in known if rest.startswith(f"{one}/")), key=len, default="")
        commit, file = repository.revisions.get(revision, revision), rest[len(revision) + 1 :]
        content = repository.files.get(file)
        if not revision or content is None or file in self.server.faults.lost:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif file.endswith(LARGE):
            address = f"http://localhost:{self.server.server_port}/cdn/{kind}/{commit}/{name}/{file}"
            linked = {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
            self.answer(302, b"", {"Location": address, "X-Repo-Commit": commit, **linked})
        else:
            self.content(content, file, {"ETag": f'"{blob(content)}"', "X-Repo-Commit": commit})

    def content(self, content: bytes, file: str, headers: dict[str, str]) -> None:
        """A file's bytes, or the rest of them where a range is asked for; with the faults of this server."""
        faults = self.server.faults
        if file in faults.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        cuts = faults.cut.get(file, 0) if self.command == "GET" else 0
        if cuts:
            faults.cut[file] = max(cuts - 1, -1)
            self.answer(200, rest, headers, sent=0 if cuts < 0 else len(rest) // 2)
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.answer(206 if start else 200, rest, {**headers, "Accept-Ranges": "bytes"})

    def answer(self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """log: every call, as method and path; repositories: by (kind, name)."""

    daemon_threads = True

    def __init__(self, repositories: dict[tuple[str, str], Repository]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.faults = Faults()
        self.log: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(repositories: dict[tuple[str, str], Repository]) -> Iterator[Server]:
    server = Server(repositories)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def closed_port() -> str:
    """An address at which nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


BLOCKED = """
import socket
def refuse(*arguments, **options):
    raise SystemExit("the network was used")  # not an Exception, which somebody might catch
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
"""


@dataclass
class Client:
    """Runs Python in fresh processes, as the hub's client reads its endpoint once, when it is imported.

    home: folder of the hub's cache and of ours.
    """

    home: Path
    endpoint: str

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            kept.pop(name, None)
        own = {"HF_HOME": str(self.home / "hf"), "SSM_TUNE_CACHE": str(self.home / "cache"),
               "HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
               "OMP_NUM_THREADS": "1"}  # fmt: skip
        return {**kept, **own, **more}

    def start(self, code: str, *arguments: str, blocked: bool = False, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", (BLOCKED if blocked else "") + code, *arguments]
        return subprocess.Popen(command, env=self.environment(**more), cwd=ROOT, text=True, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    def run(self, code: str, *arguments: str, blocked: bool = False, **more: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        process = self.start(code, *arguments, blocked=blocked, **more)
        out, err = process.communicate(timeout=180)
        return process.returncode, out, err

    def cli(self, *arguments: str, blocked: bool = False, **more: str) -> tuple[int, str, str]:
        """The command line in a process of its own."""
        code = "import sys\nfrom ssm_tune.cli import main\nsys.exit(main(sys.argv[1:]))"
        return self.run(code, *arguments, blocked=blocked, **more)
