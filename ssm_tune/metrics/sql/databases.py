"""Where the databases are, and whether each file is a readable one."""

from collections.abc import Iterable
from pathlib import Path

from ssm_tune.metrics.sql.sandbox import Limits, Pool, Result, Rows
from ssm_tune.utils.errors import UserError

_MAGIC = b"SQLite format 3\0"
_HOT_JOURNAL = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
_LIMITS = Limits(time_limit=30.0)


def find_databases(folder: Path, db_ids: Iterable[str]) -> dict[str, Path]:
    """The files ``folder``/db_id/db_id.sqlite by db_id, checked cheaply: whole, and every table can be opened.

    Whatever is in a file is untrusted, its schema included: SQLite opens it in a process of the sandbox alone.

    Raises:
        UserError: a file is missing, empty, no SQLite file or cut short, has a write-ahead log or an unfinished
            transaction beside it, or SQLite cannot read it.
    """
    paths = {db_id: _checked_file(folder, db_id) for db_id in db_ids}
    with Pool(_LIMITS) as pool:
        tables = [
            (path, 'SELECT 1 FROM "{}" LIMIT 1'.format(name.replace('"', '""')))
            for (path, _), result in pool.run([(path, _TABLES) for path in paths.values()])
            for (name,) in _rows(path, result)
        ]
        for (path, _), result in pool.run(tables):
            _rows(path, result)
    return paths


def _rows(path: Path, result: Result) -> Rows:
    if result.undecodable:
        raise UserError(f"{path}: the schema of this SQLite database is not UTF-8; restore it from the Spider archive")
    if result.rows is None:
        raise UserError(f"{path}: SQLite cannot read it ({result.error}); restore it from the Spider archive")
    return result.rows


def _checked_file(folder: Path, db_id: str) -> Path:
    """The file, checked by its header, its length and the files beside it. Raises UserError."""
    path = folder / db_id / f"{db_id}.sqlite"
    if not path.is_file():
        what = "is not a file" if path.exists() else "is missing"
        raise UserError(f"no database for db_id {db_id!r}: {path} {what}; it is part of the Spider archive")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if size == 0:
        raise UserError(f"{path} is empty (0 bytes); restore it from the Spider archive")
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise UserError(f"{path} is no SQLite database; restore it from the Spider archive")
    _check_length(path, header, size)
    _check_unfinished(path)
    return path


def _check_unfinished(path: Path) -> None:
    """Raise UserError for a database whose rows are not all in its file: files are opened without their journals."""
    file = path.resolve()  # as SQLite does, which looks for journals beside the file that a link points to
    log, journal = file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-journal")
    try:
        if log.exists() and log.stat().st_size > 0:
            raise UserError(
                f"{path} has a write-ahead log with rows that are not in the file itself, {log.name}: put them into it "
                f"with sqlite3 {path.name} 'PRAGMA journal_mode=DELETE', or restore the file from the Spider archive"
            )
        if journal.exists():
            with journal.open("rb") as opened:
                hot = opened.read(8) == _HOT_JOURNAL
            if hot:
                raise UserError(
                    f"{path} has an unfinished transaction, {journal.name}: open it once with sqlite3, which rolls the "
                    "transaction back, or restore the file from the Spider archive"
                )
    except OSError as error:
        raise UserError(f"cannot read the journals of {path}: {error.strerror}") from error


def _check_length(path: Path, header: bytes, size: int) -> None:
    """The header says how long the file is (https://www.sqlite.org/fileformat.html, section 1.3)."""
    page = int.from_bytes(header[16:18], "big")
    page = 65_536 if page == 1 else page
    pages = int.from_bytes(header[28:32], "big")
    # the count is only meant where the change counter equals the version it was written for
    if header[24:28] == header[92:96] and size < page * pages:
        raise UserError(f"{path} is cut short ({size} of {page * pages} bytes); restore it from the Spider archive")
