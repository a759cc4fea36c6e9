"""What the generator makes today is what the package ships."""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from make_sample_data import write_sample_data

from ssm_tune.tasks.sample_data import FOLDER


def content(path: Path) -> bytes:
    """Without what varies with the versions of zlib and SQLite."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            return "\n".join(connection.iterdump()).encode()
    return path.read_bytes()


@pytest.mark.slow
def test_the_generator_makes_the_shipped_files(tmp_path: Path) -> None:
    write_sample_data(tmp_path)
    made, shipped = (
        {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path, FOLDER)
    )
    assert made.keys() == shipped.keys()
    for name, path in made.items():
        assert content(path) == content(shipped[name]), name
