"""What queries may not do, and that none outlives its time."""

import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from helpers.toy_spider import ENDLESS, state

from ssm_tune.metrics.sql import Database, sandbox
from ssm_tune.metrics.sql.sandbox import Limits, Pool, Result

# C functions that compare 2e11 pairs of bytes each, for minutes: SQLite asks no progress handler meanwhile
STUBBORN = "SELECT " + " + ".join(["instr(printf('%.*c', 900000, 'a'), printf('%.*c', 450000, 'a') || 'b')"] * 30)


def run(database: Database, *queries: str, limits: Limits | None = None, workers: int = 1) -> list[Result]:
    assert database.path is not None
    with Pool(limits, workers) as pool:
        results = dict(pool.run([(database.path, query) for query in queries]))
    return [results[database.path, query] for query in queries]


def test_reading_is_allowed(music: Database) -> None:
    rows = [
        run(music, query)[0].rows
        for query in (
            "SELECT name FROM singer WHERE age > 30 ORDER BY name DESC",
            "SELECT max(age), upper(name) FROM singer",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3) SELECT x FROM c",
            "SELECT name, rank() OVER (ORDER BY age) FROM singer LIMIT 1;",
        )
    ]
    assert rows == [[("Dan",), ("Bob",)], [(40, "BOB")], [(1,), (2,), (3,)], [("Cid", 1)]]


FORBIDDEN = [
    "ATTACH DATABASE '{folder}/other.db' AS other",
    "ATTACH DATABASE ':memory:' AS other",
    "PRAGMA table_info(singer)",
    "PRAGMA writable_schema = 1",
    "PRAGMA journal_mode = WAL",
    "SELECT * FROM pragma_table_info('singer')",
    "SELECT load_extension('x')",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT s",
    "CREATE TABLE x (a)",
    "CREATE TEMP TABLE x (a)",
    "CREATE VIEW x AS SELECT 1",
    "CREATE VIRTUAL TABLE x USING fts5(a)",
    "CREATE TRIGGER x AFTER INSERT ON singer BEGIN DELETE FROM singer; END",
    "DROP TABLE singer",
    "ALTER TABLE singer ADD COLUMN x",
    "INSERT INTO singer VALUES (9, 'x', 1, 'x')",
    "INSERT INTO singer VALUES (9, 'x', 1, 'x') RETURNING name",
    "UPDATE singer SET name = 'x'",
    "DELETE FROM singer",
    "REPLACE INTO singer VALUES (1, 'x', 1, 'x')",
    "VACUUM",
    "VACUUM INTO '{folder}/copy.db'",
    "ANALYZE",
    "REINDEX",
    "DETACH DATABASE main",
    "SELECT name FROM singer; DROP TABLE singer",
    "SELECT fts3_tokenizer('simple')",
    "SELECT writefile('{folder}/out', 'x')",
    "SELECT readfile('/etc/hostname')",
    "SELECT edit('x')",
]


@pytest.mark.parametrize("query", FORBIDDEN)
def test_all_else_is_not(music: Database, query: str, tmp_path: Path) -> None:
    before = state(tmp_path)
    (result,) = run(music, query.format(folder=tmp_path))
    assert result.rows is None
    assert result.error
    assert not result.timed_out
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        ";",
        "-- nothing",
        "SELECT",
        "SELECT \0",
        "SELECT '\ud800'",
        "SELECT ?",
        "SELECT :x",
        "SELECT 'x",
        "SELECT nothing FROM nowhere",
        "(" * 50_000,
        "SELECT " + "not " * 50_000 + "1",
        "SELECT '" + "x" * 500_000 + "'",
        "SELECT 1 UNION ALL " * 20_000 + "SELECT 1",
        "SELECT abs(-9223372036854775808)",
        "SELECT zeroblob(1000000000)",
        "SELECT hex(randomblob(900000))",
        "SELECT " + ", ".join("1" * 3000),
    ],
)
def test_what_does_not_run_is_an_error(music: Database, query: str) -> None:
    (result,) = run(music, query)
    assert result.rows is None
    assert "\n" not in result.error
    assert result.error


@pytest.mark.parametrize("query", [ENDLESS, STUBBORN, "SELECT count(*) FROM " + ", ".join(["singer"] * 40)])
def test_time_limit_holds(music: Database, query: str, tmp_path: Path) -> None:
    before = state(tmp_path)
    limits = Limits(time_limit=1.0)
    assert music.path is not None
    with Pool(limits, 1) as pool:
        assert [result.rows for _, result in pool.run([(music.path, "SELECT 1")])] == [[(1,)]]
        start = time.monotonic()
        ((_, result),) = pool.run([(music.path, query)])
        assert time.monotonic() - start >= 1.0
        assert result == Result(error=result.error, timed_out=True)
        # the next query runs, in the same process or in a new one
        assert [result.rows for _, result in pool.run([(music.path, "SELECT 2")])] == [[(2,)]]
    assert state(tmp_path) == before


def test_a_slow_query_does_not_hold_up_or_blame_others(music: Database) -> None:
    queries = [f"SELECT {number}" for number in range(50)]
    results = run(music, STUBBORN, *queries, ENDLESS, limits=Limits(time_limit=0.5), workers=2)
    assert [result.timed_out for result in results] == [True, *[False] * 50, True]
    assert [result.rows for result in results[1:-1]] == [[(number,)] for number in range(50)]


def test_a_slow_reader_is_no_slow_query(music: Database) -> None:
    """The process that asks may be busy for longer than the limit: an answer that waits for it is not late."""
    assert music.path is not None
    with Pool(Limits(time_limit=60.0), 1) as pool:
        pool.submit((music.path, "SELECT 1"))
        pool.submit((music.path, "SELECT 2"))
        pool.next()
        (worker,) = pool._workers
        worker.start(*pool._waiting.popleft())
        select.select([worker.answers], [], [], 60)  # its answer waits,
        worker.deadline = 0.0  # and its time was up long ago
        assert pool.next()[1] == Result([(2,)])


def test_results_are_bounded(music: Database) -> None:
    endless_rows = ENDLESS.replace("count(*)", "x")
    big_rows = "SELECT zeroblob(1000000) FROM singer, song, singer s2"
    distinct = "SELECT DISTINCT a.x, zeroblob(1000) FROM c AS a"
    memory = f"{ENDLESS.split('SELECT count')[0]} {distinct} ORDER BY 2"
    results = run(music, endless_rows, big_rows, memory, limits=Limits(time_limit=60.0))
    assert [result.rows for result in results] == [None, None, None]
    assert "more than 100000 rows" in results[0].error
    assert "bytes" in results[1].error
    assert "MemoryError" in results[2].error
    assert not any(result.timed_out for result in results)


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are read from /proc")
def test_limits_of_the_process(music: Database) -> None:
    """Whatever a query achieves, its process can write no file and has only so much memory."""
    assert music.path is not None
    with Pool(Limits(), 1) as pool:
        list(pool.run([(music.path, "SELECT 1")]))
        text = Path(f"/proc/{pool._workers[0].process.pid}/limits").read_text()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
    assert limits["Max address space"] == [str(Limits().memory)] * 2


def test_a_worker_that_dies_is_replaced(music: Database) -> None:
    assert music.path is not None
    with Pool(Limits(time_limit=20.0), 1) as pool:
        list(pool.run([(music.path, "SELECT 1")]))
        killed = pool._workers[0].process.pid
        for number, (job, result) in enumerate(pool.run([(music.path, "SELECT 2"), (music.path, "SELECT 3")])):
            if number == 0:
                assert (job[1], result.rows) == ("SELECT 2", [(2,)])
                os.kill(killed, signal.SIGKILL)
            else:
                assert result.rows == [(3,)]  # asked again, of another worker
        assert [result.rows for _, result in pool.run([(music.path, "SELECT 4")])] == [[(4,)]]
        assert pool._workers[0].process.pid != killed


def test_a_query_that_kills_its_worker_twice_is_an_error(music: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def start(worker: sandbox._Worker, job: sandbox.Job, time_limit: float) -> None:
        plain(worker, job, time_limit)
        begun.append(worker.process.pid)
        if job[1] == "SELECT 2":
            worker.ready = True  # as after the first of its answers
            worker.process.kill()

    plain = sandbox._Worker.start
    monkeypatch.setattr(sandbox._Worker, "start", start)
    assert music.path is not None
    with Pool(Limits(time_limit=20.0), 1) as pool:
        found = {job[1]: result for job, result in pool.run([(music.path, "SELECT 2"), (music.path, "SELECT 3")])}
    assert "died twice" in found["SELECT 2"].error
    assert not found["SELECT 2"].timed_out
    assert found["SELECT 3"].rows == [(3,)]
    assert len(begun) == len(set(begun)) == 3


def test_no_worker_outlives_the_pool(music: Database) -> None:
    assert music.path is not None
    with Pool(Limits(), 2) as pool:
        list(pool.run([(music.path, "SELECT 1"), (music.path, "SELECT 2")]))
        processes = [worker.process for worker in pool._workers]
        results = pool.run([(music.path, "SELECT 3"), (music.path, ENDLESS)])
        next(results)
    assert all(process.returncode is not None for process in processes)


def test_a_worker_whose_parent_is_gone_ends_itself(music: Database) -> None:
    """Killed without a chance to clean up, a parent leaves a query that no handler can end: the alarm ends it."""
    script = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from ssm_tune.metrics.sql.sandbox import Limits, Pool\n"
        "pool = Pool(Limits(time_limit=1.0), 1)\n"
        "path = Path(sys.argv[1])\n"
        "list(pool.run([(path, 'SELECT 1')]))\n"
        "print(pool._workers[0].process.pid, flush=True)\n"
        "threading.Timer(0.3, lambda: os.kill(os.getpid(), 9)).start()\n"
        "list(pool.run([(path, sys.argv[2])]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(music.path), STUBBORN], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    worker = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _alive(worker):
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:  # a zombie that nobody has waited for has ended, too
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "odd name ?#%.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.execute("INSERT INTO t VALUES (CAST(x'6162ff63' AS TEXT))")
        connection.commit()
    with Pool(workers=1) as pool:
        results = {job[1]: result for job, result in pool.run([(path, "SELECT a FROM t"), (path, "SELECT 'abc'")])}
    assert results["SELECT a FROM t"] == Result([("abc",)], undecodable=True)
    assert results["SELECT 'abc'"] == Result([("abc",)])


def test_values_come_through(music: Database) -> None:
    (result,) = run(music, "SELECT 1, 1.5, NULL, 'é\U0001f600', x'00ff', 9223372036854775807, 9e999")
    assert result.rows == [(1, 1.5, None, "é\U0001f600", b"\x00\xff", 2**63 - 1, float("inf"))]


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    with Pool(workers=1) as pool:
        ((_, result),) = pool.run([(tmp_path / "none.sqlite", "SELECT 1")])
    assert "unable to open" in result.error
    assert list(tmp_path.iterdir()) == []
