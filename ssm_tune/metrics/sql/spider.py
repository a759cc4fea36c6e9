"""Spider's scores: five metrics, each over all examples and by hardness, from the texts of the queries."""

import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from ssm_tune.metrics.sql.exact import exact_match, prepare
from ssm_tune.metrics.sql.execution import has_order, official_match, same_answer
from ssm_tune.metrics.sql.hardness import LEVELS, hardness
from ssm_tune.metrics.sql.parser import parse
from ssm_tune.metrics.sql.sandbox import Job, Limits, Pool, Result
from ssm_tune.metrics.sql.schema import Database
from ssm_tune.metrics.sql.tree import NotParsable, Query
from ssm_tune.utils.errors import UserError

MATCHES = ("exact", "paper_exact")
EXECUTIONS = ("execution", "official_execution", "paper_execution")
METRICS = (*EXECUTIONS, *MATCHES)

_NOTHING = Query(distinct=False, items=(), tables=())  # stands for an answer that cannot be parsed; equals no gold


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

    Every query runs apart from this process, reading only, for at most ``time_limit`` seconds, and may have at most
    100,000 rows (``sandbox.Limits``): a prediction that wants more is wrong. The level is always that of golds.

    ``timed_out`` is the share of predictions that met the time limit, where queries ran.

    Returns:
        values, and for each example the same names without levels (1.0 or 0.0), with "timed_out" (the prediction
        met the time limit) where queries ran.

    Raises:
        ValueError: the sequences differ in length, or are empty; the time limit is not above zero.
        UserError: a gold cannot be parsed or fails to run; it is named.
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
        for place, results in _run(examples, limits):
            statistics[place] = _executions(examples[place], *results) | statistics[place]
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
    ran = f"sqlite {sqlite3.sqlite_version} | limit {time_limit:g} s | n={n}"
    answer = "same rows and columns, any column order, row order with ORDER BY, floats to 12 digits"
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


def _run(examples: Sequence[_Example], limits: Limits) -> Iterator[tuple[int, list[Result]]]:
    """The place of each example with the results of its gold, its prediction, and the paper's forms of both.

    As they come, and a result is kept only while an example still needs it: large results would fill the memory.
    """
    jobs = [
        [_job(one, query) for query in (one.gold, one.prediction, one.paper_gold, one.paper_prediction)]
        for one in examples
    ]
    users: dict[Job, set[int]] = {}
    for place, its in enumerate(jobs):
        for job in its:
            users.setdefault(job, set()).add(place)
    missing = [len(set(its)) for its in jobs]
    results: dict[Job, Result] = {}
    with Pool(limits) as pool:
        for done, result in pool.run(job for its in jobs for job in its):
            results[done] = result
            for place in sorted(users[done]):
                missing[place] -= 1
                if missing[place]:
                    continue
                yield place, [results[job] for job in jobs[place]]
                for job in set(jobs[place]):
                    users[job].discard(place)
                    if not users[job]:
                        del results[job]


def _job(example: _Example, query: str) -> Job:
    assert example.database.path is not None
    return example.database.path, query


def _executions(
    example: _Example, gold: Result, predicted: Result, paper_gold: Result, paper_predicted: Result
) -> dict[str, float]:
    name = f"gold query of database {example.database.db_id!r}"
    for query, result in ((example.gold, gold), (example.paper_gold, paper_gold)):
        if result.rows is None:
            longer = "; allow more with task.time_limit=SECONDS" if result.timed_out else ""
            raise UserError(f"{name} fails ({result.error}{longer}): {_line(query)}")
    try:
        ordered = has_order(example.gold)
    except ValueError as error:
        raise UserError(f"{name}: sqlglot cannot parse it ({error}): {_line(example.gold)}") from error
    return {
        "execution": float(same_answer(predicted, gold, ordered)),
        "official_execution": float(official_match(predicted, gold, example.predicted_query, example.gold_query)),
        "paper_execution": float(
            official_match(paper_predicted, paper_gold, example.paper_predicted_query, example.paper_gold_query)
        ),
        "timed_out": float(predicted.timed_out),
    }


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
