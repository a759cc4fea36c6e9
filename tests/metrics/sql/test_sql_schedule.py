"""Queries of many examples: all results to the right example, within a bound of what is held and of time."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.metrics.sql import Database, Interrupted, spider, spider_scores
from ssm_tune.metrics.sql import schedule as scheduling
from ssm_tune.metrics.sql.sandbox import Job, Limits, Result
from ssm_tune.metrics.sql.schedule import MANY_TIMEOUTS, run_examples

PATH = Path("db.sqlite")


class FakePool:
    """Runs as many as ``size`` queries at once. A query is its own row; ``slow`` ones are done after all others."""

    def __init__(self, size: int = 2, slow: frozenset[str] = frozenset(), timed_out: bool = False) -> None:
        self.limits, self.size, self.slow, self.timed_out = Limits(time_limit=5.0), size, slow, timed_out
        self.running: list[Job] = []
        self.queue: list[Job] = []
        self.started: Counter[Job] = Counter()
        self.limits_of: dict[str, float] = {}

    @property
    def busy(self) -> bool:
        return bool(self.running or self.queue)

    @property
    def has_room(self) -> bool:
        return not self.queue and len(self.running) < self.size

    def submit(self, job: Job, time_limit: float) -> None:
        self.queue.append(job)
        self.limits_of[job[1]] = time_limit

    def next(self) -> tuple[Job, Result]:
        while self.queue and len(self.running) < self.size:
            self.started[self.queue[0]] += 1
            self.running.append(self.queue.pop(0))
        job = min(self.running, key=lambda one: one[1] in self.slow)
        self.running.remove(job)
        return job, Result(None if self.timed_out else [(job[1],)], timed_out=self.timed_out, size=33 * 2**20)


def jobs(*queries: str) -> list[Job]:
    return [(PATH, query) for query in queries]


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4), max_size=12), st.integers(1, 4))
def test_every_example_has_the_results_of_its_queries(examples: list[list[str]], size: int) -> None:
    pool = FakePool(size, slow=frozenset("ab"))
    found = dict(run_examples(pool, [jobs(*queries) for queries in examples], ()))  # type: ignore[arg-type]
    assert found == {place: [Result([(one,)]) for one in queries] for place, queries in enumerate(examples)}


def test_a_slow_gold_of_all_does_not_fill_the_memory() -> None:
    """Sixty large answers would wait for one gold query that is running."""
    pool = FakePool(slow=frozenset(["gold"]))
    examples = [jobs("gold", f"prediction {number}") for number in range(60)]
    running = run_examples(pool, examples, ())  # type: ignore[arg-type]
    next(running)
    assert sum(pool.started.values()) < 10
    assert len(list(running)) == 59
    assert max(pool.started.values()) == 1


def test_large_results_are_not_kept_for_examples_that_come_much_later() -> None:
    pool = FakePool()
    examples = [jobs(f"gold {number % 40}", f"prediction {number}") for number in range(80)]
    assert len(list(run_examples(pool, examples, ()))) == 80  # type: ignore[arg-type]
    assert sum(pool.started.values()) > 120  # some golds ran again


def test_after_many_timeouts_predictions_get_less_time_and_golds_do_not() -> None:
    pool = FakePool(timed_out=True)
    examples = [jobs(f"gold {number}", f"prediction {number}") for number in range(MANY_TIMEOUTS + 50)]
    list(run_examples(pool, examples, {gold for gold, _ in examples}))  # type: ignore[arg-type]
    assert {pool.limits_of[f"gold {number}"] for number in range(len(examples))} == {5.0}
    assert pool.limits_of["prediction 0"] == 5.0
    assert pool.limits_of[f"prediction {len(examples) - 1}"] < 1.0


def test_an_interruption_gives_the_scores_of_what_is_done(music: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> object:
        yield from list(scheduling.run_examples(*arguments))[:2]  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(spider, "run_examples", interrupted)
    golds = ["SELECT name FROM singer", "SELECT age FROM singer", "SELECT count(*) FROM singer"]
    with pytest.raises(Interrupted) as caught:
        spider_scores(golds, golds, [music] * 3, golds)
    assert caught.value.values["execution"] == 1.0
    assert len(caught.value.places) == 2
