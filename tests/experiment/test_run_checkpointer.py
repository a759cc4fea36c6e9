"""Checkpoint files: whole or absent, two kept, damaged and foreign ones told apart."""

from __future__ import annotations

import errno
import math
import uuid
from pathlib import Path

import pytest
import torch
from helpers.damaged_files import NASTY, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssm_tune.training.checkpoint import Checkpoint, Checkpoints
from ssm_tune.utils.errors import UserError


def written(folder: Path, count: int) -> tuple[Checkpoints, list[Path]]:
    checkpoints = Checkpoints(folder, {"cell": "a"})
    for number in range(count):
        checkpoints.save(Checkpoint({"number": number, "loss": math.inf}, {"x": torch.full((3,), float(number))}))
    return checkpoints, sorted(checkpoints.folder.iterdir())


def test_what_was_written_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints, files = written(tmp_path, 5)
    assert [path.name[:6] for path in files] == ["000004", "000005"]
    found = checkpoints.load_newest(pytest.fail)
    assert found is not None
    assert found.values == {"number": 4, "loss": math.inf}
    assert torch.equal(found.tensors["x"], torch.full((3,), 4.0))
    checkpoints.delete()
    assert not checkpoints.folder.exists()
    assert checkpoints.load_newest(pytest.fail) is None


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content[::-1]])
def test_a_damaged_one_is_set_aside_with_a_warning_and_the_one_before_taken(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    checkpoints, files = written(tmp_path, 3)
    warnings: list[str] = []
    files[-1].write_bytes(damage(files[-1].read_bytes()))
    found = checkpoints.load_newest(warnings.append)
    assert found is not None
    assert found.values["number"] == 1
    assert len(warnings) == 1
    assert files[-1].name in warnings[0]
    assert "the one before" in warnings[0]
    files[0].write_bytes(b"")
    assert checkpoints.load_newest(warnings.append) is None
    assert "starting over" in warnings[1]
    assert all(path.name.startswith("damaged-") for path in checkpoints.folder.iterdir())


def test_one_of_another_cell_is_refused_by_name(tmp_path: Path) -> None:
    _, files = written(tmp_path, 1)
    with pytest.raises(UserError, match=f"{files[0].name} does not fit this run: its cell is a, not b"):
        Checkpoints(tmp_path, {"cell": "b"}).load_newest(pytest.fail)


def test_a_full_disk_is_one_line_and_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, files = written(tmp_path, 2)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        checkpoints.save(Checkpoint({}, {}))
    assert sorted(checkpoints.folder.iterdir()) == files
    found = checkpoints.load_newest(pytest.fail)
    assert found is not None
    assert found.values["number"] == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_the_newest_is_found_and_the_one_before_is_taken(tmp_path: Path, data: st.DataObject) -> None:
    checkpoints, files = written(tmp_path / uuid.uuid4().hex, 2)
    content = files[-1].read_bytes()
    files[-1].write_bytes(data.draw(st.sampled_from(NASTY) | damaged(content)))
    warnings: list[str] = []
    found = checkpoints.load_newest(warnings.append)
    assert found is not None
    assert found.values["number"] == 0
    assert len(warnings) == 1


def test_what_is_not_ours_stays_in_the_folder(tmp_path: Path) -> None:
    checkpoints, _ = written(tmp_path, 2)
    for name in ("notes.txt", "model.safetensors", "000001.safetensors"):
        (checkpoints.folder / name).write_text("mine")
    (checkpoints.folder / f".000003-0123456789abcdef.safetensors.{uuid.uuid4().hex}.tmp").write_text("left")
    checkpoints.delete()
    assert {path.name for path in checkpoints.folder.iterdir()} == {
        "notes.txt",
        "model.safetensors",
        "000001.safetensors",
    }
