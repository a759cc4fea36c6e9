"""Spider's scores: five metrics, each over all examples and by hardness, from the texts of the queries."""

import logging
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from ssm_tune.metrics.sql.exact import exact_match, prepare
from ssm_tune.metrics.sql.execution import TOLERANCE, has_order, official_match, same_answer
from ssm_tune.metrics.sql.hardness import LEVELS, hardness
from ssm_tune.metrics.sql.parser import parse
from ssm_tune.metrics.sql.sandbox import Job, Limits, Pool, Result
from ssm_tune.metrics.sql.schedule import MANY_TIMEOUTS, SHORT_LIMIT, run_examples
from ssm_tune.metrics.sql.schema import Database
from ssm_tune.metrics.sql.tree import NotParsable, Query
from ssm_tune.utils.errors import UserError

MATCHES = ("exact", "paper_exact")
EXECUTIONS = ("execution", "official_execution", "paper_execution")
METRICS = (*EXECUTIONS, *MATCHES)
LOG_SECONDS = 10.0
log = logging.getLogger(__name__)

_NOTHING = Query(distinct=False, items=(), tables=())  # stands for an answer that cannot be parsed; equals no gold


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while queries ran. values: as of ``spider_scores``, over the examples that were done, at ``places``."""

    def __init__(self, values: dict[str, float], places: list[int]) -> None:
        super().__init__()
        self.values, self.places = values, places


@dataclass(frozen=True)
class _Example:
    """One question: its queries, and the parses of them all. level: the hardness of the gold."""

    prediction: str
    gold: str
    paper_gold: str
    paper_prediction: str
    database: Database
    level: str
    predicted_query: Query
    gold_query: Query
    paper_gold_query: Query
    paper_predicted_query: Query


def spider_scores(
    predictions: Sequence[str],
    golds: Sequence[str],
    databases: Sequence[Database],
    paper_golds: Sequence[str],
    time_limit: float = 5.0,
    paper_predictions: Sequence[str] | None = None,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Scores of predicted queries, one for each example like everything else here.

    golds: as published; paper_golds: as the paper's code compares with them, lower-cased; paper_predictions: as it
    compares these, with their blanks cleaned up (the predictions themselves where absent). Values, all in 0..1:
    ``exact`` (official exact set match) and ``execution`` (the same answer, see ``same_answer``) against golds;
    ``official_execution`` (the old official execution match) against golds; ``paper_exact`` and ``paper_execution``
    (official rules) of paper_predictions against paper_golds. Each also as "<name>_<level>" over the examples whose
    gold has that hardness, levels without examples left out. Where any database has no file, no execution is among
    them.

    Every query runs in another process, reading only, for at most ``time_limit`` seconds, and may have at most
    100,000 rows (``sandbox.Limits``): a prediction that wants more is wrong. After 100 predictions that met the time
    limit, the others have a tenth of it (``schedule``). The level is always that of golds.

    ``timed_out`` is the share of predictions that met the time limit, where queries ran.

    Returns:
        values, and for each example the same names without levels (1.0 or 0.0), with "timed_out" (the prediction
        met the time limit) where queries ran.

    Raises:
        ValueError: the sequences differ in length, or are empty; the time limit is not above zero.
        UserError: a gold cannot be parsed or fails to run; it is named.
        Interrupted: Ctrl-C, with the scores of the examples that were done.
    """
    paper_predictions = predictions if paper_predictions is None else paper_predictions
    counts = {len(given) for given in (predictions, golds, databases, paper_golds, paper_predictions)}
    if len(counts) != 1:
        raise ValueError(f"as many predictions, golds, databases, paper's golds and predictions, not {sorted(counts)}")
    if not golds:
        raise ValueError("no predictions to score")
    limits = Limits(time_limit=time_limit)
    given = zip(predictions, golds, paper_golds, paper_predictions, databases, strict=True)
    examples = [_example(*each) for each in given]
    statistics = [_matches(one) for one in examples]
    if all(one.database.path is not None for one in examples):
        done: list[int] = []
        try:
            for place, results in _run(examples, limits):
                statistics[place] = _executions(examples[place], *results) | statistics[place]
                done.append(place)
        except KeyboardInterrupt as interrupt:
            if not done:
                raise
            values = _means([statistics[place] for place in done], [examples[place].level for place in done])
            raise Interrupted(values, sorted(done)) from interrupt
    return _means(statistics, [one.level for one in examples]), statistics


def hardness_counts(golds: Sequence[str], databases: Sequence[Database]) -> dict[str, int]:
    """How many golds have each level of LEVELS.

    Raises:
        UserError: a gold cannot be parsed.
    """
    found = Counter(hardness(_parse_gold(gold, one)) for gold, one in zip(golds, databases, strict=True))
    return {level: found[level] for level in LEVELS}


def signatures(n: int, time_limit: float = 5.0) -> dict[str, str]:
    """What produces each metric over ``n`` examples, in a line: rules, golds, versions, limit."""
    words = f"words by nltk {version('nltk')}"
    limit = f"limit {time_limit:g} s, {SHORT_LIMIT * time_limit:g} s after {MANY_TIMEOUTS} that met it"
    ran = f"sqlite {sqlite3.sqlite_version} | {limit} | n={n}"
    answer = f"same rows and columns, any column order, row order with ORDER BY, floats within a relative {TOLERANCE:g}"
    official = "taoyds/spider 2020, read-only"
    return {
        "execution": f"{answer} | original golds | ORDER BY by sqlglot {version('sqlglot')} | {ran}",
        "official_execution": f"execution match of {official} | original golds | {words} | {ran}",
        "paper_execution": f"execution match of {official} | lower-cased golds | {words} | {ran}",
        "exact": f"exact set match of taoyds/spider 2020, no values | original golds | {words} | n={n}",
        "paper_exact": f"exact set match of taoyds/spider 2020, no values | lower-cased golds | {words} | n={n}",
    }


def _example(prediction: str, gold: str, paper_gold: str, paper_prediction: str, database: Database) -> _Example:
    gold_query, paper_gold_query = _parse_gold(gold, database), _parse_gold(paper_gold, database)
    predicted_query = _parse_prediction(prediction, database)
    same = paper_prediction == prediction
    paper_predicted_query = predicted_query if same else _parse_prediction(paper_prediction, database)
    queries = (predicted_query, gold_query, paper_gold_query, paper_predicted_query)
    prepared = [prepare(one, database.schema) for one in queries]
    level = hardness(gold_query)
    return _Example(prediction, gold, paper_gold, paper_prediction, database, level, *prepared)


def _parse_prediction(prediction: str, database: Database) -> Query:
    try:
        return parse(prediction, database.schema)
    except NotParsable:
        return _NOTHING


def _parse_gold(gold: str, database: Database) -> Query:
    try:
        return parse(gold, database.schema)
    except NotParsable as error:
        raise UserError(
            f"gold query of database {database.db_id!r} does not parse by Spider's grammar ({error}): {_line(gold)}"
        ) from error


def _matches(example: _Example) -> dict[str, float]:
    return {
        "exact": float(exact_match(example.predicted_query, example.gold_query)),
        "paper_exact": float(exact_match(example.paper_predicted_query, example.paper_gold_query)),
    }


def check_golds(
    golds: Sequence[str], databases: Sequence[Database], paper_golds: Sequence[str], time_limit: float = 5.0
) -> None:
    """Raise UserError, as ``spider_scores`` would, for a gold that cannot be parsed or fails to run."""
    examples = [
        _example("", gold, paper_gold, "", one)
        for gold, paper_gold, one in zip(golds, paper_golds, databases, strict=True)
    ]
    queries: dict[Job, _Example] = {}
    for one in examples:
        if one.database.path is not None:
            _ordered(one)
            queries |= {_job(one, query): one for query in (one.gold, one.paper_gold)}
    with Pool(Limits(time_limit=time_limit)) as pool:
        for job, result in pool.run(queries):
            _require_rows(queries[job], job[1], result)


def _run(examples: Sequence[_Example], limits: Limits) -> Iterator[tuple[int, list[Result]]]:
    """The place of each example with the results of its gold, its prediction, and the paper's forms of both.

    Progress is logged every LOG_SECONDS.
    """
    jobs = [
        [_job(one, query) for query in (one.gold, one.prediction, one.paper_gold, one.paper_prediction)]
        for one in examples
    ]
    golds = {job for its in jobs for job in (its[0], its[2])}
    done = timed_out = 0
    logged = time.monotonic()
    with Pool(limits) as pool:
        for place, results in run_examples(pool, jobs, golds):
            yield place, results
            done += 1
            timed_out += results[1].timed_out
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                log.warning("SQL: %d of %d examples scored, %d met the time limit", done, len(examples), timed_out)


def _job(example: _Example, query: str) -> Job:
    assert example.database.path is not None
    return example.database.path, query


def _executions(
    example: _Example, gold: Result, predicted: Result, paper_gold: Result, paper_predicted: Result
) -> dict[str, float]:
    _require_rows(example, example.gold, gold)
    _require_rows(example, example.paper_gold, paper_gold)
    ordered = _ordered(example)
    return {
        "execution": float(same_answer(predicted, gold, ordered)),
        "official_execution": float(official_match(predicted, gold, example.predicted_query, example.gold_query)),
        "paper_execution": float(
            official_match(paper_predicted, paper_gold, example.paper_predicted_query, example.paper_gold_query)
        ),
        "timed_out": float(predicted.timed_out),
    }


def _require_rows(example: _Example, gold: str, result: Result) -> None:
    if result.rows is None:
        longer = "; allow more with task.time_limit=SECONDS" if result.timed_out else ""
        raise UserError(f"{_name(example)} fails ({result.error}{longer}): {_line(gold)}")


def _ordered(example: _Example) -> bool:
    try:
        return has_order(example.gold)
    except ValueError as error:
        raise UserError(f"{_name(example)}: sqlglot cannot parse it ({error}): {_line(example.gold)}") from error


def _name(example: _Example) -> str:
    return f"gold query of database {example.database.db_id!r}"


def _means(statistics: Sequence[dict[str, float]], levels: Sequence[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in METRICS:
        if name not in statistics[0]:
            continue
        values[name] = math.fsum(one[name] for one in statistics) / len(statistics)
        for level in LEVELS:
            of_level = [one[name] for one, its in zip(statistics, levels, strict=True) if its == level]
            if of_level:
                values[f"{name}_{level}"] = math.fsum(of_level) / len(of_level)
    if "timed_out" in statistics[0]:
        values["timed_out"] = math.fsum(one["timed_out"] for one in statistics) / len(statistics)
    return values


def _line(query: str) -> str:
    """The query in one line, cut where it is very long."""
    line = " ".join(query.encode("utf-8", "replace").decode().split())
    return line if len(line) <= 300 else f"{line[:300]} ..."
