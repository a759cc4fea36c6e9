"""The order in which the queries of many examples run, within bounds of memory and of time in total."""

from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence

from ssm_tune.metrics.sql.sandbox import Job, Pool, Result

HELD_BYTES = 128 * 2**20
"""No other example is started while results of this size wait for the rest of their examples."""
MANY_TIMEOUTS = 100
SHORT_LIMIT = 0.1
"""After so many queries that met the time limit, untrusted ones get this part of it: a thousand endless queries at
five seconds each would take 42 minutes on two processors, and take eight."""


def run_examples(
    pool: Pool, examples: Sequence[Sequence[Job]], trusted: Collection[Job]
) -> Iterator[tuple[int, list[Result]]]:
    """The number of each example with the results of its queries in their order, as examples are done.

    A query that several examples share runs once, or again where its result is too large to be kept that long.
    trusted: queries whose time limit is never shortened.
    """
    users = Counter(job for jobs in examples for job in set(jobs))
    waiting = deque(range(len(examples)))
    missing: dict[int, set[Job]] = {}
    results: dict[Job, Result] = {}
    submitted: set[Job] = set()
    timeouts = 0
    while waiting or missing:
        while waiting and pool.has_room and (_size(results) < HELD_BYTES or not pool.busy):
            place = waiting.popleft()
            missing[place] = {job for job in examples[place] if job not in results}
            for job in dict.fromkeys(examples[place]):
                if job in missing[place] and job not in submitted:
                    short = timeouts >= MANY_TIMEOUTS and job not in trusted
                    pool.submit(job, pool.limits.time_limit * (SHORT_LIMIT if short else 1.0))
                    submitted.add(job)
        done = [place for place, jobs in missing.items() if not jobs]
        for place in done:
            yield place, [results[job] for job in examples[place]]
            del missing[place]
            users.subtract(set(examples[place]))
        if done:
            needed = {job for place in missing for job in examples[place]}
            for job in results.keys() - needed:
                if users[job] <= 0 or _size(results) > HELD_BYTES:
                    del results[job]
            continue
        job, result = pool.next()
        submitted.discard(job)
        results[job] = result
        timeouts += result.timed_out and job not in trusted
        for jobs in missing.values():
            jobs.discard(job)


def _size(results: dict[Job, Result]) -> int:
    return sum(result.size for result in results.values())
