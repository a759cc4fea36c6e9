"""A run's folder: what is in the way is refused at the start, what is not ours stays, links are followed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssm_tune.experiment.run_folder import check_folder, clear_folder, delete_checkpoints
from ssm_tune.training.checkpoint import Checkpoint, Checkpoints
from ssm_tune.utils.errors import UserError


@pytest.mark.parametrize("name", ["steps.jsonl.gz", "record.json", "predictions-frozen.jsonl.gz", "failed.json"])
def test_a_folder_where_a_file_is_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["adapter", "checkpoints"])
def test_a_file_or_a_broken_link_where_a_folder_is_needed_is_refused(name: str, tmp_path: Path) -> None:
    check_folder(tmp_path)
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=name):
        check_folder(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="link"):
        check_folder(tmp_path)


def test_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    elsewhere.mkdir()
    (run / "linked").symlink_to(elsewhere)
    for path in (run / "notes.txt", run / "adapter" / "notes.txt", elsewhere / "data"):
        path.write_text("mine")
    for path in (run / "steps.jsonl.gz", run / "adapter" / "adapter.json", run / "predictions-frozen.jsonl.gz"):
        path.write_text("ours")
    clear_folder(run, keep_base_predictions=True)
    left = {str(path.relative_to(run)) for path in run.rglob("*")}
    assert left == {"notes.txt", "linked", "adapter", "adapter/notes.txt", "predictions-frozen.jsonl.gz"}
    assert (elsewhere / "data").exists()
    clear_folder(run, keep_base_predictions=False)
    assert not (run / "predictions-frozen.jsonl.gz").exists()


def test_checkpoints_may_be_a_link_to_a_folder_elsewhere(tmp_path: Path) -> None:
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    run.mkdir()
    scratch.mkdir()
    (scratch / "notes.txt").write_text("mine")
    (run / "checkpoints").symlink_to(scratch)
    check_folder(run)
    checkpoints = Checkpoints(run, {})
    for number in range(3):
        checkpoints.save(Checkpoint({"number": number}, {}))
    found = checkpoints.load_newest(pytest.fail)
    assert found is not None
    assert found.values["number"] == 2
    delete_checkpoints(checkpoints, pytest.fail)
    assert [path.name for path in scratch.iterdir()] == ["notes.txt"]


def test_checkpoints_that_cannot_be_deleted_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(Checkpoint({}, {}))

    def busy(path: Path, missing_ok: bool = False) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "unlink", busy)
    warnings: list[str] = []
    delete_checkpoints(checkpoints, warnings.append)
    assert len(warnings) == 1
    assert "busy" in warnings[0]


@pytest.mark.slow
def test_a_folder_that_is_deleted_in_the_middle_ends_the_run_without_a_record(tmp_path: Path) -> None:
    run = ["method=state_offset_y", "task=glue_rte", "model=tiny", "data=sample", "train.max_steps=60"]
    command = [sys.executable, "-m", "ssm_tune", *run]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while not (found := list(tmp_path.glob("results/runs/*/*/predictions-frozen.jsonl.gz"))):
            assert process.poll() is None
            time.sleep(0.05)
        shutil.rmtree(found[0].parent)
        _, err = process.communicate()
    assert process.returncode == 2
    assert found[0].parent.name in err.splitlines()[-1]
    assert not list(tmp_path.glob("results/runs/*/*/record.json"))
