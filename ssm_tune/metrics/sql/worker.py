"""A process that runs untrusted SQL. Started by its path, alone: it imports the standard library only.

It reads jobs from standard input and writes results to standard output, each a length of eight bytes and that many
bytes of marshal. First come the settings, answered by an empty result once all is ready.

What holds a query: the file is opened read-only and immutable; SQLite asks ``allowed`` about every action; sizes of
texts and of the statement are bounded, and so are its memory and this process's; no file can be written, whatever
happens; a progress handler ends it at the time limit, and where SQLite is too busy to call one, an alarm ends the
process. Should the parent be gone, the alarm works all the same.
"""

import marshal
import os
import signal
import sqlite3
import sys
import time
from typing import Any

MEBIBYTE = 2**20
SQLITE_RECURSIVE = 33  # has no name in Python's module
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, SQLITE_RECURSIVE}
# only load_extension is in every SQLite; the others come with shells and extensions
BARRED_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "zipfile", "sqlar_compress"}
ROWS_AT_A_TIME = 500


class TooLarge(Exception):
    """The result has more rows or bytes than are kept."""


class NoQuery(Exception):
    """The statement has no result, not even an empty one: nothing at all, a comment, a maintenance command."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which then closes this
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whatever the parent made of it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    settings = receive()
    confine(settings["memory"])
    send({})
    runner = Runner(settings)
    while True:
        send(runner.run(*receive()))


def confine(memory: int) -> None:
    """Limits of the whole process, beyond any query: memory in bytes, no file written, no core dumped."""
    try:
        import resource
    except ImportError:  # not a Unix: SQLite's own limits remain
        return
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":  # elsewhere the limit on addresses is not kept, or counts what it should not
        limits[resource.RLIMIT_AS] = memory
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


class Runner:
    """Runs one query after the other; the connection stays open while the database is the same."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.path: str | None = None
        self.connection: sqlite3.Connection | None = None
        self.deadline = 0.0

    def run(self, path: str, sql: str, time_limit: float) -> dict[str, Any]:
        """The result as sandbox.Result has it: rows, or an error; never an exception."""
        self.deadline = time.monotonic() + time_limit
        signal.setitimer(signal.ITIMER_REAL, time_limit + self.settings["grace"])  # its signal ends the process
        try:
            return self._attempt(path, sql)
        except BaseException as error:
            # a connection that ran out of memory or was interrupted is not trusted again
            self.path = self.connection = None
            late = time.monotonic() >= self.deadline
            words = " ".join(f"{type(error).__name__}: {error}".split())
            return {"error": words.encode("utf-8", "replace").decode()[:500], "timed_out": late}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _attempt(self, path: str, sql: str) -> dict[str, Any]:
        if path != self.path:
            self.path, self.connection = None, self._open(path)
            self.path = path
        assert self.connection is not None
        try:
            self.connection.text_factory = str
            return {"rows": self._rows(self.connection, sql), "undecodable": False}
        except sqlite3.OperationalError as error:
            if not str(error).startswith("Could not decode to UTF-8"):
                raise
        self.connection.text_factory = lambda text: text.decode("utf-8", "ignore")
        return {"rows": self._rows(self.connection, sql), "undecodable": True}

    def _open(self, uri: str) -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
        # before the authorizer, which allows no PRAGMA: sorting and grouping stay in memory, and that is bounded
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA hard_heap_limit = {self.settings['memory'] // 2}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self.settings["value_size"])
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, self.settings["sql_size"])
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0)
        connection.set_authorizer(allowed)
        connection.set_progress_handler(lambda: time.monotonic() >= self.deadline, 10_000)
        return connection

    def _rows(self, connection: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        size = 0
        cursor = connection.execute(sql)
        try:
            if cursor.description is None:
                raise NoQuery("not a query")
            while batch := cursor.fetchmany(ROWS_AT_A_TIME):
                rows += batch
                size += sum(len(value) if isinstance(value, str | bytes) else 8 for row in batch for value in row)
                if len(rows) > self.settings["rows"] or size > self.settings["result_size"]:
                    raise TooLarge(f"more than {self.settings['rows']} rows or {self.settings['result_size']} bytes")
                if time.monotonic() >= self.deadline:
                    raise TimeoutError("time limit")
        finally:
            cursor.close()
        return rows


def allowed(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    """SQLite's authorizer: reading and computing, nothing else. No ATTACH, PRAGMA, transaction, DDL or DML."""
    if action not in READING:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in BARRED_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def receive() -> Any:
    """The next message; ends the process where the parent has gone or closed the pipe."""
    return marshal.loads(_read(int.from_bytes(_read(8), "big")))


def _read(size: int) -> bytes:
    pieces = []
    while size:
        piece = os.read(0, min(size, MEBIBYTE))
        if not piece:
            os._exit(0)
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def send(message: Any) -> None:
    try:
        body = marshal.dumps(message)
    except MemoryError:
        body = marshal.dumps({"error": "MemoryError: the result does not fit", "timed_out": False})
    view = memoryview(len(body).to_bytes(8, "big") + body)
    while view:
        view = view[os.write(1, view[:MEBIBYTE]) :]


if __name__ == "__main__":
    main()
