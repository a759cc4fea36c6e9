"""Where the databases lie, and whether a file is one; opened so that nothing can be written."""

import sqlite3
from contextlib import closing
from pathlib import Path

from ssm_tune.utils.errors import UserError

_MAGIC = b"SQLite format 3\0"


def find_database(folder: Path, db_id: str) -> Path:
    """The file ``folder``/db_id/db_id.sqlite, checked cheaply: it is whole, and a row of every table can be read.

    Raises:
        UserError: it is missing, empty, no SQLite file, cut short, or SQLite cannot read it.
    """
    path = folder / db_id / f"{db_id}.sqlite"
    if not path.is_file():
        raise UserError(f"no database for db_id {db_id!r}: {path} is missing; it is part of the Spider archive")
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
    try:
        with closing(open_to_read(path)) as connection:
            # texts are not decoded here: some of Spider's databases have some that are not UTF-8
            connection.text_factory = bytes
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                quoted = table.decode("utf-8", "replace").replace('"', '""')
                connection.execute(f'SELECT * FROM "{quoted}" LIMIT 1').fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{path}: SQLite cannot read it ({error}); restore it from the Spider archive") from error
    return path


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that can only read and that makes no file beside the database.

    immutable: SQLite takes no locks and looks for no journal, so that nothing but the file itself is touched.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def _check_length(path: Path, header: bytes, size: int) -> None:
    """The header says how long the file is (https://www.sqlite.org/fileformat.html, section 1.3)."""
    page = int.from_bytes(header[16:18], "big")
    page = 65_536 if page == 1 else page
    pages = int.from_bytes(header[28:32], "big")
    # the count is only meant where the change counter equals the version it was written for
    if header[24:28] == header[92:96] and size < page * pages:
        raise UserError(f"{path} is cut short ({size} of {page * pages} bytes); restore it from the Spider archive")
