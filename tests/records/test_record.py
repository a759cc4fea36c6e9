"""Records and jsonl files: schema, round trips, and what failures leave behind."""

import copy
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.make_records import make_record
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.records.record import find_records, read_record, references_sha256, why_diverged, write_record
from ssm_tune.records.schema import validate
from ssm_tune.utils import files
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl, write_jsonl

anything = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates included
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=8,
)


def write_raw(folder: Path, record: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "record.json"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


def test_round_trip_by_folder_and_by_file(tmp_path: Path) -> None:
    record = make_record(notes=["Zoë\u2028 🫖", "行"])
    path = write_record(tmp_path / "new" / "run", record)
    assert path == tmp_path / "new" / "run" / "record.json"
    assert read_record(path) == read_record(path.parent) == record
    assert "Zoë" in path.read_text("utf-8")
    assert os.listdir(path.parent) == ["record.json"]


@given(config=st.dictionaries(anything, json_values, max_size=4), notes=st.lists(anything, max_size=3))
def test_round_trip_of_any_content(tmp_path_factory: pytest.TempPathFactory, config: Any, notes: list[str]) -> None:
    record = make_record(config=config, notes=notes)
    assert read_record(write_record(tmp_path_factory.mktemp("run"), record)) == record


def test_further_keys_are_kept(tmp_path: Path) -> None:
    assert read_record(write_record(tmp_path, make_record() | {"later": {"a": 1}}))["later"] == {"a": 1}


def test_a_loss_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    record = make_record(status="diverged")
    record["metrics"] |= {"best": None, "last": None}
    record["metrics"]["epochs"][1]["train_loss"] = float("nan")
    record["learning_rate"]["value"] = 1
    assert read_record(write_record(tmp_path, record))["metrics"]["epochs"][1]["train_loss"] is None


def test_a_score_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    record = make_record()
    record["metrics"]["best"]["report"]["rouge1"] = float("inf")
    with pytest.raises(ValueError, match=r"metrics\.best\.report\.rouge1 is null, expected a number"):
        write_record(tmp_path, record)
    assert not os.listdir(tmp_path)


def required_fields(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    open_objects = {
        "config",
        "versions",
        "hardware",
        "signatures",
        "values",
        "selection",
        "report",
        "method_options",
    }
    found = []
    for key, inner in value.items():
        found.append((*path, key))
        if isinstance(inner, dict) and (key not in open_objects):
            found += required_fields(inner, (*path, key))
    return found


@pytest.mark.parametrize("path", required_fields(make_record()), ids=".".join)
def test_a_missing_field_is_named(tmp_path: Path, path: tuple[str, ...]) -> None:
    record = make_record()
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(UserError, match=r"no field|missing field") as caught:
        read_record(write_raw(tmp_path, record))
    assert ".".join(path) in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "many"}, 'steps is "many", expected an integer'),
        ({"steps": True}, "steps is true, expected an integer"),
        ({"cell__seed": 1.5}, "cell.seed is 1.5, expected an integer"),
        ({"status": "started"}, "status is \"started\", expected completed or diverged"),
        ({"notes": [1]}, "notes[0] is 1, expected text"),
        ({"splits__selected_on_report": 0}, "splits.selected_on_report is 0, expected true or false"),
        ({"metrics__best": None}, "metrics.best is null in a completed run"),
        ({"metrics__last__report": {}}, "missing field metrics.last.report.rougeL"),
        ({"schema": 2}, "schema 2 is newer"),
        ({"schema": "1"}, "schema is '1'"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_record(write_raw(tmp_path, make_record(**changes)))
    assert message in str(caught.value)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = write_record(tmp_path / "whole", make_record()).read_text()
    for end in range(0, len(whole.rstrip()), 97):
        with pytest.raises(UserError, match="truncated or not JSON"):
            read_record(write_raw(tmp_path / "cut", whole[:end]))


def test_not_a_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run's record"):
        read_record(write_raw(tmp_path, [1]))
    with pytest.raises(UserError, match="does not exist"):
        read_record(tmp_path / "none.json")
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(UserError, match=r"holds no record\.json"):
        read_record(tmp_path / "unfinished")
    (tmp_path / "record.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match="truncated or not JSON"):
        read_record(tmp_path)


def failing(code: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("before", [None, "older"], ids=["new", "overwriting"])
@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("fsync", errno.ENOSPC, "No space left"),
        ("fsync", errno.EIO, "error"),
        ("replace", errno.EACCES, "denied"),
    ],
)
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, words: str, before: str | None
) -> None:
    if before:
        write_record(tmp_path, make_record(notes=[before]))
    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, failing(code))
        with pytest.raises(UserError, match=words) as caught:
            write_record(tmp_path, make_record(notes=["newer"]))
    assert str(tmp_path / "record.json") in str(caught.value)
    assert os.listdir(tmp_path) == (["record.json"] if before else [])
    if before:
        assert read_record(tmp_path)["notes"] == [before]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"id": "1"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(tmp_path / "rows.jsonl", rows())
    assert not os.listdir(tmp_path)


def test_a_file_limit_of_the_system_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    program = f"""
import resource
from ssm_tune.utils.files import write_jsonl
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_jsonl({str(tmp_path / "rows.jsonl")!r}, ({{"id": i, "output": "x" * 100}} for i in range(1000)))
except Exception as error:
    print(type(error).__name__, error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"UserError cannot write {tmp_path / 'rows.jsonl'}: File too large")
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="choose a folder that you may write to"):
        write_record(tmp_path / "file" / "run", make_record())


@given(st.lists(st.dictionaries(anything, json_values, max_size=3), max_size=4))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    assert read_jsonl(write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1}\n{"id"', "line 2 is truncated"),
        ('{"id": 1}\n\n{"id": 2}\n', "line 2 is truncated"),
        ('{"loss": NaN}\n', "NaN is not JSON"),
        ("[1]\n", "line 1: expected a JSON object, found list"),
    ],
)
def test_damaged_jsonl(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_jsonl(tmp_path / "rows.jsonl")


def test_find_records_reports_damage_and_passes_over_unfinished_runs(tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "samsum"
    write_record(runs / "b", make_record(seed=2))
    write_record(runs / "a", make_record(seed=1))
    write_raw(runs / "cut", '{"schema": 1')
    write_raw(runs / "future", make_record(schema=9))
    (runs / "unfinished").mkdir()
    found, warnings = find_records(tmp_path)
    assert [(path.parent.name, record["cell"]["seed"]) for path, record in found] == [("a", 1), ("b", 2)]
    assert ["cut" in warnings[0], "future" in warnings[1], len(warnings)] == [True, True, 2]
    assert find_records(tmp_path / "nowhere") == ([], [])


def test_validate_does_not_change_its_argument() -> None:
    record = make_record()
    before = copy.deepcopy(record)
    assert validate(record) == before


@given(st.lists(anything, max_size=3), st.lists(anything, max_size=3))
def test_references_hash_tells_lists_apart(one: list[str], other: list[str]) -> None:
    assert (references_sha256(one) == references_sha256(other)) == (one == other)


def test_references_hash_is_stable() -> None:
    # sha256 of ["Zo\u00eb"] as ASCII JSON, by coreutils' sha256sum
    known = subprocess.run(
        ["sha256sum"], input=b'["Zo\\u00eb"]', capture_output=True, check=True
    ).stdout.split()[0]  # fmt: skip
    assert references_sha256(("Zoë",)) == known.decode()


def test_why_a_run_diverged_is_found_among_other_notes() -> None:
    record: Any = {"notes": ["the instruction is our own wording", "diverged: the loss is not finite at step 3"]}
    assert why_diverged(record) == "diverged: the loss is not finite at step 3"
