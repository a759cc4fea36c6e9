"""A conf/ of one's own: the package's choices, and a group of files that a test writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssm_tune.sweeps import sweep_file as sweep


def own_conf(folder: Path, group: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ``folder`` what sweep files are read from; where the test may write mine.yaml of ``group``."""
    (folder / group).mkdir()
    for shared in ("task", "method", "model", "data"):
        (folder / shared).symlink_to(sweep.conf_dir() / shared)
    monkeypatch.setattr(sweep, "conf_dir", lambda: folder)
    monkeypatch.setattr(sweep, "names", lambda group: sorted(path.stem for path in (folder / group).glob("*.yaml")))
    return folder / group / "mine.yaml"
