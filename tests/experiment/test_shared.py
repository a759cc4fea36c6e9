"""What tells whether files that runs share have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssm_tune.experiment.shared import file_stamps


def test_stamps_tell_a_file_and_a_folder_that_changed(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    file.write_text("a")
    (folder / "below" / "one").write_text("b")
    places = (str(file), str(folder), "no such file", 3, None)
    first = file_stamps(*places)
    assert [stamp[0] for stamp in first] == [str(file), str(folder / "below" / "one")]
    assert file_stamps(*places) == first
    (folder / "below" / "one").write_text("longer")
    second = file_stamps(*places)
    assert second != first
    os.utime(file, ns=(0, 0))
    assert file_stamps(*places) != second


def test_an_empty_setting_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert file_stamps("", None) == ()
