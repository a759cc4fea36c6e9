"""Whatever has become of a data file, its reader succeeds or says in one line what is wrong with which file."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers.damaged_files import damaged_json, damaged_or_another, reads_or_names
from helpers.toy_spider import ENTRY, make_database
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_tune.config.compose import compose
from ssm_tune.metrics.sql import find_databases, read_schemas
from ssm_tune.tasks.base import load_task
from ssm_tune.tasks.sample_data import SPIDER_FOLDER, sample_rows
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl

OFTEN = settings(max_examples=150)


def local(path: Path) -> dict[str, Any]:
    return {"source": "local", "path": str(path), "check": "off", "name": None}


def task_of(name: str) -> Any:
    return load_task(compose([f"task={name}", "method=bitfit", "data=local", "data.path=none"]).task)


TEXTS = [{"id": number, "input": f"in {number}", "target": f"out {number}"} for number in range(12)]
LABELS = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(24)]
DIALOGUES = sample_rows("samsum", "val")[:4]
TRIPLES = sample_rows("dart", "val")[:4]
QUESTIONS = json.loads((SPIDER_FOLDER / "dev.json").read_text(encoding="utf-8"))[:4]
GLUE = "sentence\tlabel\n" + "".join(f"some words {number} \t{number % 2}\n" for number in range(6))

# task, file that is damaged, its content, and the other files of the folder with theirs
JSON_FILES: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "samsum": ("samsum", "train.json", DIALOGUES, {"val.json": DIALOGUES, "test.json": DIALOGUES}),
    "dart": (
        "dart",
        "dart-v1.1.1-full-train.json",
        TRIPLES,
        {f"dart-v1.1.1-full-{split}.json": TRIPLES for split in ("dev", "test")},
    ),
    "spider": (
        "spider",
        "dev.json",
        QUESTIONS,
        {
            "train_spider.json": QUESTIONS,
            "tables.json": json.loads((SPIDER_FOLDER / "tables.json").read_text(encoding="utf-8")),
        },
    ),
}


@pytest.mark.parametrize("name", JSON_FILES)
def test_json(name: str, tmp_path: Path) -> None:
    task, file, content, others = JSON_FILES[name]
    for other, rows in others.items():
        (tmp_path / other).write_text(json.dumps(rows), encoding="utf-8")
    path, loader = tmp_path / file, task_of(task)

    def check() -> None:
        reads_or_names(lambda: loader.load(local(tmp_path), "standard"), path)

    @OFTEN
    @given(damaged_json(content))
    def values(changed: Any) -> None:
        path.write_text(json.dumps(changed), encoding="utf-8")
        check()

    @OFTEN
    @given(damaged_or_another(json.dumps(content).encode()))
    def raw(changed: bytes) -> None:
        path.write_bytes(changed)
        check()

    values()
    raw()


@pytest.mark.parametrize(("task", "rows"), [("text2text", TEXTS), ("classify", LABELS)])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines(task: str, rows: list[Any], suffix: str, tmp_path: Path) -> None:
    path, loader = tmp_path / f"data{suffix}", task_of(task)
    pack: Callable[[bytes], bytes] = gzip.compress if suffix.endswith("gz") else bytes
    whole = "".join(json.dumps(row) + "\n" for row in rows).encode()

    def check() -> None:
        reads_or_names(lambda: loader.load(local(path) | {"check": "own"}, "standard"), path)

    @OFTEN
    @given(damaged_json(rows))
    def values(changed: Any) -> None:
        lines = changed if isinstance(changed, list) else [changed]
        path.write_bytes(pack("".join(json.dumps(row) + "\n" for row in lines).encode()))
        check()

    @OFTEN
    @given(damaged_or_another(pack(whole)))
    def raw(changed: bytes) -> None:
        path.write_bytes(changed)
        check()

    values()
    raw()


def test_tab_separated(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text(GLUE, encoding="utf-8")
    path, loader = tmp_path / "train.tsv", task_of("glue_sst2")

    @OFTEN
    @given(damaged_or_another(GLUE.encode()))
    def raw(changed: bytes) -> None:
        path.write_bytes(changed)
        reads_or_names(lambda: loader.load(local(tmp_path), "standard"), path)

    raw()


def test_tables_json(tmp_path: Path) -> None:
    path = tmp_path / "tables.json"

    @OFTEN
    @given(damaged_json([ENTRY]), damaged_or_another(json.dumps([ENTRY]).encode()), st.booleans())
    def check(value: Any, content: bytes, raw: bool) -> None:
        path.write_bytes(content if raw else json.dumps(value).encode())
        reads_or_names(lambda: read_schemas(path), path)

    check()


def test_sqlite(tmp_path: Path) -> None:
    path = make_database(tmp_path).path
    assert path is not None
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW old AS SELECT name FROM singer")
        connection.execute("CREATE INDEX names ON singer (name)")
        connection.commit()
    whole = path.read_bytes()

    @settings(max_examples=40)
    @given(damaged_or_another(whole), damaged_or_another(whole[:600]), st.booleans())
    def check(anywhere: bytes, at_the_start: bytes, start: bool) -> None:
        path.write_bytes(at_the_start + whole[600:] if start else anywhere)
        reads_or_names(lambda: find_databases(tmp_path, ["music"]), path)

    check()


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("samsum", ["train.json", "val.json", "test.json"]),
        ("dart", [f"dart-v1.1.1-full-{split}.json" for split in ("train", "dev", "test")]),
        ("glue_sst2", ["train.tsv", "dev.tsv"]),
        ("spider", ["tables.json", "train_spider.json", "dev.json"]),
        ("text2text", ["train.jsonl", "val.jsonl", "test.jsonl"]),
    ],
)
def test_a_folder_in_a_files_place_is_named(task: str, names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    data = local(tmp_path) | ({"check": "own"} if task == "text2text" else {})
    with pytest.raises(UserError, match="|".join(names)) as caught:
        task_of(task).load(data, "standard")
    assert "\n" not in str(caught.value)


def test_a_split_that_is_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEXTS), encoding="utf-8")
    (tmp_path / "val.jsonl").mkdir()
    with pytest.raises(UserError, match=r"val\.jsonl"):
        task_of("text2text").load(local(tmp_path) | {"check": "own"}, "standard")


@pytest.mark.parametrize("path", ["~nobody-of-this-name/data", "a\0b"])
@pytest.mark.parametrize("task", ["samsum", "dart", "glue_sst2", "spider", "text2text"])
def test_paths_that_are_none(task: str, path: str) -> None:
    data = {"source": "local", "path": path, "check": "own" if task == "text2text" else "off", "name": None}
    with pytest.raises(UserError, match=r"home folder|NUL"):
        task_of(task).load(data, "standard")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEXTS), encoding="utf-8")
    dataset = task_of("text2text").load(local(Path("~/d.jsonl")) | {"check": "own"}, "standard")
    assert dataset.name == "d"


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b" "])
def test_a_small_file_does_not_expand_into_all_of_the_memory(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl.gz"
    path.write_bytes(gzip.compress(line * (150 * 2**20 // len(line)), 1))
    assert path.stat().st_size < 2 * 2**20
    with pytest.raises(UserError, match=r"predictions\.jsonl\.gz expands to more than"):
        read_jsonl(path)
