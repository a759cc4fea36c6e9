"""Hostile queries through all metrics: nothing breaks, nothing hangs, nothing is written.

1,000 of them; SSM_TUNE_FUZZ=10000 asks for more, SSM_TUNE_FUZZ_SEED for others.
"""

import os
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from helpers.hostile_sql import GOLDS, hostile_queries
from helpers.toy_spider import state

from ssm_tune.metrics.sql import METRICS, Database, spider_scores
from ssm_tune.metrics.sql.sandbox import Limits, Pool

LIMIT = 0.2


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_hostile_queries(music: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, seed = int(os.environ.get("SSM_TUNE_FUZZ", "1000")), int(os.environ.get("SSM_TUNE_FUZZ_SEED", "0"))
    monkeypatch.chdir(tmp_path)  # what a query might write to a relative path would be seen
    queries = list(islice(hostile_queries(seed), count))
    draw = random.Random(seed)
    golds = [draw.choice(GOLDS) for _ in queries]
    before = state(tmp_path)

    values, statistics = spider_scores(
        queries, golds, [music] * count, [gold.lower() for gold in golds], time_limit=LIMIT
    )

    assert state(tmp_path) == before
    assert len(statistics) == count
    assert all(set(one) == {*METRICS, "timed_out"} for one in statistics)
    assert all(value in (0.0, 1.0) for one in statistics for value in one.values())
    assert all(0 <= values[name] < 1 for name in METRICS)
    right = Counter(name for one in statistics for name in one if one[name])
    print(f"{count} queries: {dict(right)}")


def test_each_hostile_query_ends(music: Database) -> None:
    """One after the other, with its rows or an error; pytest's limit is for those that do not end."""
    assert music.path is not None
    with Pool(Limits(time_limit=LIMIT), 1) as pool:
        for query in islice(hostile_queries(1), 150):
            ((_, result),) = pool.run([(music.path, query)])
            assert (result.rows is None) == bool(result.error)


def test_the_generator_draws_what_it_promises() -> None:
    queries = list(islice(hostile_queries(), 1000))
    assert queries == list(islice(hostile_queries(), 1000))
    for part in ("DROP TABLE", "PRAGMA", "ATTACH", "RECURSIVE", "zeroblob", "\0", "\ud800", "(" * 1000):
        assert sum(part in query for query in queries) >= 3, part
    assert max(map(len, queries)) > 200_000
    assert len(set(queries)) > 600
