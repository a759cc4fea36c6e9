"""Lock files as other programs, crashes and reboots leave them: never an exception, and a stated rule for each."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from helpers.damaged_files import NASTY, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssm_tune.experiment.lock_file import STALE_SECONDS, is_held, newest_lock_file
from ssm_tune.experiment.run_lock import Locked, file_lock, lock_folder, run_lock
from ssm_tune.sweeps.status import Results
from ssm_tune.utils.process import this_process

YEAR = 365 * 86_400.0
CONTENTS = {
    "host": "h", "machine": "h b n", "pid": 1, "start": "1", "job": None, "restart": 0, "asked": "k", "label": "l",
    "begun": "then", "outcome": None, "error": "what\x1b[31m\nwent wrong", "seconds": 3.5, "ended": "later",
}  # fmt: skip


def write(folder: Path, content: bytes, name: str = "0.json", age: float = 0.0) -> Path:
    locks = lock_folder(folder)
    locks.mkdir(parents=True, exist_ok=True)
    path = locks / name
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def lock_of(folder: Path, age: float = 0.0, **contents: object) -> None:
    here = {**this_process(), "begun": "then", "outcome": None, **contents}
    write(folder, json.dumps(here).encode(), age=age)


def test_a_lock_from_before_a_boot_of_this_host_is_free(tmp_path: Path) -> None:
    host, boot, *rest = this_process()["machine"].split(" ")
    assert uuid.UUID(boot)
    earlier = " ".join([host, str(uuid.uuid4()), *rest])
    lock_of(tmp_path / "run", machine=earlier)
    with run_lock(tmp_path / "run"):
        pass
    lock_of(tmp_path / "other", machine=" ".join(["another-host", str(uuid.uuid4()), *rest]), host="another-host")
    with pytest.raises(Locked), run_lock(tmp_path / "other"):
        pass


@pytest.mark.parametrize("age", [-YEAR, -3600.0, STALE_SECONDS + 60, YEAR])
def test_a_heartbeat_in_the_future_or_long_ago_holds_nothing(age: float, tmp_path: Path) -> None:
    lock_of(tmp_path / "run", age, host="other", machine="other")
    with run_lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    "name",
    [
        "0.sync-conflict-20250101-120000-ABCDEFG.json",
        "0 (conflicted copy).json",
        "0.bak.json",
        "00.json",
        "1e3.json",
        "\u0661.json",
        "9" * 30 + ".json",
        "-1.json",
        ".json",
        "notes.txt",
    ],
)
def test_files_of_other_names_are_no_lock_files(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "task" / "run"
    write(folder, b"{}", name)
    with run_lock(folder):
        pass
    assert (lock_folder(folder) / name).exists()
    last = newest_lock_file(lock_folder(folder))
    assert last is not None
    assert (last.number, last.contents["outcome"]) == (0, "done")
    Results(tmp_path).folders()


def usable(folder: Path) -> None:
    """What reads lock files works, whatever they hold; a young one may hold the lock, an old one never does."""
    Results(folder.parent.parent.parent).folders()
    last = newest_lock_file(lock_folder(folder))
    assert last is not None
    assert isinstance(is_held(last), bool)
    assert "\n" not in last.holder() + str(last.contents.get("error"))
    assert "\x1b" not in last.holder() + str(last.contents.get("error"))
    os.utime(last.path, (0, 0))
    contents = last.contents
    if contents.get("machine") != this_process()["machine"]:
        with run_lock(folder):
            pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NASTY) | damaged(json.dumps(CONTENTS).encode()))
def test_damaged_lock_files(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / str(uuid.uuid4()) / "runs" / "task" / "run"
    folder.mkdir(parents=True)
    write(folder, content)
    write(folder.with_name("unused"), content, f"../early-{uuid.uuid4()}.json")
    usable(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(CONTENTS)), JSON)
def test_lock_files_with_values_of_other_types(tmp_path: Path, key: str, value: Any) -> None:
    folder = tmp_path / str(uuid.uuid4()) / "runs" / "task" / "run"
    folder.mkdir(parents=True)
    write(folder, json.dumps({**CONTENTS, key: value}).encode())
    usable(folder)


def test_a_folder_in_the_place_of_a_lock_file(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "task" / "run"
    (lock_folder(folder) / "0.json").mkdir(parents=True)
    usable(folder)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = write(tmp_path / "run", b"{", f"{uuid.uuid4().hex}.tmp")
    with run_lock(tmp_path / "run"):
        assert not left.exists()


def test_who_waits_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    path = tmp_path / "predictions.json"
    lock_of(path, host="node7", machine="other", job="cluster/5")

    def free() -> None:
        os.utime(lock_folder(path) / "0.json", (0, 0))

    with file_lock(path, poll=free, say=said.append):
        pass
    assert len(said) == 1
    assert "node7" in said[0]
    assert "cluster/5" in said[0]
