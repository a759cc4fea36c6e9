"""All of Spider's scores together: names, means, golds that fail, and dev against itself."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.toy_spider import ENDLESS, state

from ssm_tune.metrics.sql import LEVELS, METRICS, Database, hardness_counts, signatures, spider_scores
from ssm_tune.utils.errors import UserError

GOLDS = [
    "SELECT name FROM singer WHERE country = 'France'",  # easy
    "SELECT name , age FROM singer WHERE age > 30",  # medium
    "SELECT name FROM singer ORDER BY age DESC LIMIT 1",  # medium
    "SELECT count(*) FROM singer",  # easy
]


def scores(predictions: list[str], golds: list[str], database: Database, **more) -> tuple[dict, list[dict]]:
    return spider_scores(predictions, golds, [database] * len(golds), [gold.lower() for gold in golds], **more)


def test_golds_against_themselves(music: Database) -> None:
    values, statistics = scores(GOLDS, GOLDS, music)
    names = [name + level for name in METRICS for level in ("", "_easy", "_medium")]
    assert list(values) == [*names, "timed_out"]
    assert values.pop("timed_out") == 0.0
    # the paper's lower-cased gold asks for singers of "france": of those there are none, and that is the paper's rule
    assert values["paper_execution"] == 0.75
    assert values["paper_execution_easy"] == 0.5
    assert all(value == 1.0 for name, value in values.items() if not name.startswith("paper_execution"))
    assert [one["paper_execution"] for one in statistics] == [0.0, 1.0, 1.0, 1.0]
    assert all(set(one) == {*METRICS, "timed_out"} for one in statistics)


def test_each_metric_has_its_own_rules(music: Database) -> None:
    predictions = [
        "SELECT name FROM singer WHERE country = 'france'",  # the paper's answer, and no singer at all
        "SELECT age , name FROM singer WHERE age > 30 ORDER BY name DESC",  # rows moved, columns moved
        "SELECT s.Name FROM singer s WHERE s.singer_id = 2",  # the right answer, no word of Spider's grammar
        "SELECT count(singer_id) FROM singer",  # the right number of another column
    ]
    values, statistics = scores(predictions, GOLDS, music)
    right = [{name for name in METRICS if one[name]} for one in statistics]
    assert right == [{"exact", "paper_exact", "paper_execution"}, {"execution"}, {"execution"}, {"execution"}]
    assert values["execution"] == 0.75
    assert values["execution_easy"] == 0.5
    assert values["execution_medium"] == 1.0
    assert values["exact"] == 0.25
    assert values["official_execution"] == 0.0


def test_without_any_database(music: Database) -> None:
    databases = [music, music, replace(music, path=None), music]
    values, statistics = spider_scores(GOLDS, GOLDS, databases, GOLDS)
    assert {name.partition("_")[0] for name in values} == {"exact", "paper"}
    assert not any("execution" in name for name in values)
    assert statistics == [{"exact": 1.0, "paper_exact": 1.0}] * 4


def test_a_prediction_that_times_out(music: Database) -> None:
    values, statistics = scores([ENDLESS, GOLDS[1], GOLDS[2], ""], GOLDS, music, time_limit=0.5)
    assert [one["timed_out"] for one in statistics] == [1.0, 0.0, 0.0, 0.0]
    assert [one["execution"] for one in statistics] == [0.0, 1.0, 1.0, 0.0]
    assert values["timed_out"] == 0.25


def test_nothing_is_the_answer_to_no_question(music: Database) -> None:
    """The gold has no rows, and neither have these: but they are no queries."""
    gold = "SELECT name FROM singer WHERE age > 99"
    for prediction, right in (("", 0.0), ("-- nothing", 0.0), ("REINDEX", 0.0), (gold.replace("99", "98"), 1.0)):
        assert scores([prediction], [gold], music)[0]["execution"] == right


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ("SELECT name FROM singer WHERE age", "does not parse"),
        ("SELECT name FROM singer LIMIT 1 garbage", "fails"),
        ("SELECT name FROM singer WHERE", "fails"),
        ("SELECT nothing FROM singer", "does not parse"),
    ],
)
def test_a_gold_that_fails_is_named(music: Database, gold: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        scores(["SELECT 1", "SELECT 1"], [GOLDS[0], gold], music)
    assert "'music'" in str(caught.value)
    assert gold in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_paper_gold_that_fails_is_named(music: Database) -> None:
    with pytest.raises(UserError, match=r"'music'.*no words"):
        spider_scores(["SELECT 1"], [GOLDS[0]], [music], ["no words"])


def test_misuse(music: Database) -> None:
    with pytest.raises(ValueError, match="as many"):
        spider_scores(["a"], GOLDS, [music] * 4, GOLDS)
    with pytest.raises(ValueError, match="no predictions"):
        spider_scores([], [], [], [])
    with pytest.raises(ValueError, match="above zero"):
        scores(GOLDS, GOLDS, music, time_limit=0)


def test_hardness_counts(music: Database) -> None:
    assert hardness_counts(GOLDS, [music] * 4) == {"easy": 2, "medium": 2, "hard": 0, "extra": 0}
    assert tuple(hardness_counts([], [])) == LEVELS


def test_signatures() -> None:
    found = signatures(7, 2.5)
    assert set(found) == set(METRICS)
    for name, line in found.items():
        assert "n=7" in line
        assert "\n" not in line
        assert ("limit 2.5 s" in line) == ("execution" in name)
        assert ("lower-cased" in line) == ("paper" in name)
        assert (sqlite3.sqlite_version in line) == ("execution" in name)
    assert len(set(found.values())) == len(METRICS)


def test_undecodable_text(tmp_path: Path, music: Database) -> None:
    """Never right by the official rules, the text without the bad bytes by the others."""
    assert music.path is not None
    with closing(sqlite3.connect(music.path)) as connection:
        connection.execute("UPDATE Singer SET Name = CAST(x'41ff' AS TEXT) WHERE Singer_ID = 1")
        connection.commit()
    gold = "SELECT name FROM singer WHERE singer_id = 1"
    values, _ = scores([gold], [gold], music)
    assert (values["execution"], values["official_execution"], values["exact"]) == (1.0, 0.0, 1.0)
    assert scores(["SELECT 'A'"], [gold], music)[0]["execution"] == 1.0


def test_dev_against_itself(shared: Path, dev: list[dict], dev_databases: list[Database]) -> None:
    folder = shared / "data" / "spider_small" / "database"
    before = state(folder)
    golds = [one["query"] for one in dev]
    values, statistics = spider_scores(golds, golds, dev_databases, golds)
    assert values.pop("timed_out") == 0.0
    assert set(values.values()) == {1.0}
    assert len(values) == 5 * len(METRICS)
    assert not any(one["timed_out"] for one in statistics)
    assert state(folder) == before


def test_dev_against_its_neighbours(dev: list[dict], dev_databases: list[Database]) -> None:
    """The scores can be low: each gold against the next but one, which seldom asks the same."""
    golds = [one["query"] for one in dev]
    values, _ = spider_scores([*golds[2:], *golds[:2]], golds, dev_databases, golds)
    assert values["exact"] < 0.1
    assert values["execution"] < 0.3


def test_importing_needs_neither_torch_nor_parsers() -> None:
    loaded = "print(*(name for name in ('torch', 'nltk', 'sqlglot') if name in sys.modules))"
    script = f"import sys, ssm_tune.metrics.sql; {loaded}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
