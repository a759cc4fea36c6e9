"""Spider's folder and its traps, the prompt's spelling, both protocols, and scores on real databases."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ssm_tune.config.compose import compose
from ssm_tune.config.groups import conf_dir
from ssm_tune.experiment.load_data import load_data
from ssm_tune.hub.download import HubFiles
from ssm_tune.metrics.sql import hardness_counts, read_schemas
from ssm_tune.models.tokenizer import Tokenizer
from ssm_tune.tasks import spider
from ssm_tune.tasks.base import Roles, load_task
from ssm_tune.tasks.spider import MAX_TOKENS, Spider, schema_text
from ssm_tune.tasks.splits import hold_out_validation
from ssm_tune.utils.errors import UserError

LOADED = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / "spider.yaml"))
assert isinstance(LOADED, dict)
SECTION: dict[str, Any] = LOADED["task"]
CONCERT_SINGER = (
    "stadium: stadium_id number ,  location text ,  name text ,  capacity number ,  highest number ,  lowest number ,"
    "  average number ,  foreign:  ,  primary: stadium_id | singer: "
)
IN_CONCERT = (
    " | singer_in_concert: concert_id number ,  singer_id text ,  foreign: singer_id from singer , "
    "concert_id from concert ,  primary: concert_id"
)
GOLD = "SELECT Name FROM Singer WHERE Country  =  'France' ;"


def task_of(**options: Any) -> Spider:
    task = load_task(SECTION | options)
    assert isinstance(task, Spider)
    return task


def local(folder: Path, check: str = "off") -> dict[str, Any]:
    return {"source": "local", "path": str(folder), "check": check, "name": "mine"}


def row(db_id: str, query: str = GOLD, question: str = "Who is from France?") -> dict[str, str]:
    return {"db_id": db_id, "query": query, "question": question}


def description(db_id: str) -> dict[str, Any]:
    return {
        "db_id": db_id,
        "table_names_original": ["Singer", "Song"],
        "column_names_original": [[-1, "*"], [0, "Name"], [0, "Country"], [1, "Title"], [1, "Singer_Name"]],
        "column_types": ["text", "text", "text", "text", "others"],
        "primary_keys": [1],
        "foreign_keys": [[4, 1]],
    }


def write(folder: Path, databases: bool = True) -> Path:
    """A small Spider: ten databases of two questions each in train, one in dev."""
    train = [row(f"db_{n}", question=f"{n} {m}") for n in range(10) for m in range(2)]
    content: dict[str, Any] = {
        "tables.json": [description(name) for name in (*(f"db_{n}" for n in range(10)), "dev_db")],
        "train_spider.json": train,
        "dev.json": [row("dev_db"), row("dev_db", "SELECT count(*) FROM Singer")],
        "train_others.json": "never read",
    }
    for name, entries in content.items():
        (folder / name).write_text(json.dumps(entries))
    for one in content["tables.json"] if databases else []:
        file = folder / "database" / one["db_id"] / f"{one['db_id']}.sqlite"
        file.parent.mkdir(parents=True)
        with closing(sqlite3.connect(file)) as connection:
            connection.executescript(
                "CREATE TABLE Singer (Name TEXT, Country TEXT); CREATE TABLE Song (Title TEXT, Singer_Name TEXT);"
                "INSERT INTO Singer VALUES ('Ann', 'France'), ('Bo', 'Spain');"
            )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def test_both_protocols_prompts(folder: Path) -> None:
    paper, standard = (task_of().load(local(folder), protocol) for protocol in ("paper", "standard"))
    schema = (
        "Singer: name text ,  country text ,  foreign:  ,  primary: name | "
        "Song: title text ,  singer_name others ,  foreign: name from singer ,  primary: "
    )
    first, plain = paper.splits["val"][0], standard.splits["val"][0]
    assert first.prefix == plain.prefix == SECTION["instruction"] + "\n###"
    assert first.prompt == f"Question: Who is from France?\\Schema: {schema}\n###"
    assert plain.prompt == f"Question: Who is from France?\nSchema: {schema}\n###"
    assert first.target == "select name from singer where country  =  'france' ;"
    assert plain.target == GOLD
    assert first.references == plain.references == (GOLD,)
    assert (first.group, first.context.db_id) == ("dev_db", "dev_db")
    assert first.context.path == folder / "database" / "dev_db" / "dev_db.sqlite"
    assert (task_of().max_tokens("paper"), task_of().max_tokens("standard")) == (1536, None)
    assert (paper.primary, paper.headline) == ("paper_execution", ("paper_execution", "paper_exact"))
    assert (standard.primary, standard.headline) == ("execution", ("execution", "exact"))
    assert task_of(instruction="SQL:").load(local(folder), "paper").splits["val"][0].prefix == "SQL:\n###"
    assert "test" not in paper.splits
    assert len(paper.splits["train"]) == 20  # nothing of train_others.json


def test_selection_takes_whole_databases_and_these_are_at_hand(folder: Path) -> None:
    task = task_of()
    dataset = task.load(local(folder), "standard")
    assert task.roles("standard", dataset, None, None) == Roles("train", "carved", "val")
    assert task.roles("paper", dataset, None, None) == Roles("train", "val", "val")
    carved = hold_out_validation(dataset)
    groups = [{e.group for e in carved.splits[name]} for name in ("train", "carved", "val")]
    assert [len(group) for group in groups] == [9, 1, 1]
    assert len(set.union(*groups)) == 11
    assert all(e.context.path.is_file() for e in carved.splits["carved"])


def test_without_databases_exact_match_leads_and_the_record_says_so(folder: Path) -> None:
    shutil.rmtree(folder / "database")
    task = task_of()
    for protocol, primary in (("paper", "paper_exact"), ("standard", "exact")):
        dataset = task.load(local(folder), protocol)
        assert (dataset.primary, dataset.headline) == (primary, (primary,))
        assert dataset.origin == {"execution": "not scored: there is no folder database/"}
    val = dataset.splits["val"]
    values = task.score([e.target for e in val], val).values
    assert values["exact"] == values["paper_exact"] == 1.0
    assert not any("execution" in name for name in values)
    assert set(task.signatures(val)) == {"exact", "paper_exact"}


def test_missing_and_damaged_databases_are_named_before_anything_runs(folder: Path) -> None:
    file = folder / "database" / "dev_db" / "dev_db.sqlite"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"dev_db\.sqlite is cut short"):
        task_of().load(local(folder), "paper")
    file.write_bytes(b"-- a dump\n" * 100)
    with pytest.raises(UserError, match=r"dev_db\.sqlite is no SQLite database"):
        task_of().load(local(folder), "paper")
    file.unlink()
    with pytest.raises(UserError, match=r"database lacks the databases dev_db \(DB_ID/DB_ID\.sqlite each\)"):
        task_of().load(local(folder), "paper")
    file.write_bytes(whole)
    for n in range(10):  # one of them is set aside for selection
        (folder / "database" / f"db_{n}" / f"db_{n}.sqlite").unlink()
    with pytest.raises(UserError, match=r"lacks the databases db_\d \("):
        task_of().load(local(folder), "standard")


def test_the_hash_covers_schemas_databases_and_the_time_limit(folder: Path) -> None:
    before = task_of().load(local(folder), "paper").hash
    assert task_of().load(local(folder), "paper").hash == before
    assert task_of(time_limit=6).load(local(folder), "paper").hash != before
    with closing(sqlite3.connect(folder / "database" / "dev_db" / "dev_db.sqlite")) as connection:
        connection.execute("INSERT INTO Singer VALUES ('Cy', 'Peru')")
        connection.commit()
    changed = task_of().load(local(folder), "paper").hash
    assert changed != before
    with open(folder / "tables.json", "a") as file:
        file.write(" ")
    assert task_of().load(local(folder), "paper").hash not in (before, changed)


def test_scores_under_both_protocols_names(folder: Path) -> None:
    task = task_of()
    val = task.load(local(folder), "standard").splits["val"]
    good = ["SELECT Name FROM Singer WHERE Country  =  'France' ;", "SELECT count(*) FROM Singer"]
    values = task.score(good, val).values
    assert values["execution"] == values["official_execution"] == values["exact"] == values["paper_exact"] == 1.0
    # the paper's gold asks for 'france', whom nobody is from
    assert values["paper_execution"] == 0.5
    scored = task.score([query.lower() for query in good], val)
    assert (scored.values["paper_execution"], scored.values["execution"]) == (1.0, 0.5)
    assert [one["execution"] for one in scored.statistics] == [0.0, 1.0]
    assert {"exact", "paper_exact", "execution", "paper_execution"} <= set(task.signatures(val))


def test_outputs_are_cleaned_up_for_the_papers_metrics_alone(folder: Path) -> None:
    query = "select name from singer where country = 'spain'"  # " 's" loses its blank, and ='spain' is no comparison
    (folder / "dev.json").write_text(json.dumps([row("dev_db", query)]))
    task = task_of()
    val = task.load(local(folder), "paper").splits["val"]
    values = task.score([query], val).values
    assert (values["exact"], values["official_execution"], values["execution"]) == (1.0, 1.0, 1.0)
    # as in the official code, where the same gold query would even have been mistaken for the one before
    assert (values["paper_exact"], values["paper_execution"]) == (0.0, 0.0)
    values = task.score([query.replace("= 's", "=  's")], val).values
    assert (values["paper_exact"], values["paper_execution"]) == (1.0, 1.0)
    assert not task.clean_up


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "dev.json",
            [row("dev_db"), {"db_id": "dev_db", "query": "x"}],
            r"dev\.json, line 1, entry 2: expected an object with the texts db_id, query, question",
        ),
        ("dev.json", [row("nowhere")], r"no schema for db_id 'nowhere' in tables\.json"),
        (
            "dev.json",
            [row("dev_db", "SELECT Name FROM Singer WHERE Country IS NULL")],
            r"gold query of database 'dev_db' does not parse",
        ),
        ("dev.json", [], "empty list"),
        ("train_spider.json", '[{"db_id"', r"train_spider\.json, line 1: not valid JSON"),
        ("tables.json", [{"db_id": "dev_db"}], r"tables\.json: entry 1 is no schema"),
        ("tables.json", "[", r"tables\.json is not JSON"),
    ],
)
def test_bad_files_are_named(file: str, content: Any, said: str, folder: Path) -> None:
    (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=said):
        task_of().load(local(folder), "paper")


def test_a_gold_query_that_does_not_run_is_refused_before_training(folder: Path) -> None:
    """As two of the published training set: ORDER BY before INTERSECT, which the parser takes and SQLite does not."""
    refused = f"{GOLD.removesuffix(';')} ORDER BY Name LIMIT 1 INTERSECT {GOLD}"
    (folder / "dev.json").write_text(json.dumps([row("dev_db"), row("dev_db", refused)]))
    run = ["method=bitfit", "task=spider", "model=tiny", "data=local", f"data.path={folder}", "data.check=off"]
    with pytest.raises(UserError, match=r"gold query of database .dev_db. fails"):
        load_data(compose(run))


def test_missing_and_misencoded_files_are_named(folder: Path) -> None:
    (folder / "dev.json").write_bytes("ü".encode("latin-1"))
    with pytest.raises(UserError, match=r"dev\.json is not UTF-8"):
        task_of().load(local(folder), "paper")
    (folder / "dev.json").unlink()
    with pytest.raises(
        UserError, match=r"dev\.json is missing: Spider's folder holds tables\.json, train_spider\.json"
    ):
        task_of().load(local(folder), "paper")
    (folder / "tables.json").unlink()
    write_back = json.dumps([row("dev_db")])
    (folder / "dev.json").write_text(write_back)
    with pytest.raises(UserError, match=r"tables\.json"):
        task_of().load(local(folder), "paper")


@pytest.mark.parametrize("limit", [0, -1, "5", True, None, float("nan")])
def test_time_limits_are_positive_numbers(limit: object) -> None:
    with pytest.raises(UserError, match=r"task\.time_limit must be a positive number"):
        task_of(time_limit=limit)


def test_the_hub_has_questions_and_the_archive_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    tables = {name: json.loads((folder / file).read_text()) for name, file in spider.FILES.items()}

    def dataset_files(repo: str, revision: str | None, patterns: list[str]) -> HubFiles:
        asked.append((repo, revision, patterns))
        return HubFiles(repo, "d" * 40, {pattern: [Path(pattern)] for pattern in patterns})

    def read_table(paths: list[Path], columns: tuple[str, ...]) -> list[dict[str, Any]]:
        return tables["train" if "train" in paths[0].name else "val"]

    monkeypatch.setattr(spider, "dataset_files", dataset_files)
    monkeypatch.setattr(spider, "read_table", read_table)
    hub = {"source": "hub", "path": None, "check": "counts", "name": None}
    with pytest.raises(UserError, match=r"xlangai/spider has no databases.*add task\.databases=DIR"):
        task_of().load(hub, "paper")
    with pytest.raises(UserError, match=r"task\.databases is only read with data=hub; with data=local leave it out"):
        task_of(databases=str(folder)).load(local(folder), "paper")
    task = task_of(databases=str(folder))
    with pytest.raises(UserError, match=r"xlangai/spider is not the published Spider: train rows 20 .*task\.revision"):
        task.load(hub, "paper")
    patterns = ["spider/train-*.parquet", "spider/validation-*.parquet"]
    assert asked == [("xlangai/spider", SECTION["revision"], patterns)]
    monkeypatch.setattr(spider, "check_counts", lambda *_: None)
    dataset = task.load(hub, "paper")
    assert dataset.origin == {"hub": "xlangai/spider", "commit": "d" * 40}
    assert dataset.hash == task_of().load(local(folder), "paper").hash
    tables["val"] = [row("dev_db") | {"question": None}]
    with pytest.raises(UserError, match=r"validation-\*\.parquet: row 0 \(counted from 0\) lacks a text"):
        task.load(hub, "paper")


def test_the_sample_world_has_databases() -> None:
    task = task_of()
    data = {"source": "sample", "path": None, "check": "counts", "name": None}
    dataset = task.load(data, "standard")
    assert (dataset.name, dataset.published, dataset.primary) == ("sample", False, "execution")
    assert dataset.hash == task.load(data, "standard").hash
    val = dataset.splits["val"]
    values = task.score([e.target for e in val], val).values
    assert values["execution"] == 1.0
    train = [e.target for e in hold_out_validation(dataset).splits["carved"]]
    assert task.score(train, hold_out_validation(dataset).splits["carved"]).values["execution"] == 1.0


def test_schemas_are_spelled_as_the_official_prompt_does(shared: Path) -> None:
    schemas = read_schemas(shared / "data" / "spider" / "tables.json")
    text = schema_text(schemas["concert_singer"])
    assert text.startswith(CONCERT_SINGER)
    assert text.endswith(IN_CONCERT)
    assert sum(table != table.lower() for one in schemas.values() for table in one.tables) == 463
    headings = [part.split(": ")[0] for one in schemas.values() for part in schema_text(one).split(" | ")]
    assert headings == [table for one in schemas.values() for table in one.tables]
    assert sum(heading != heading.lower() for heading in headings) == 463


def test_the_resplit_copy_is_refused_by_name_and_scores_in_full(shared: Path) -> None:
    task, copy = task_of(), shared / "data" / "spider_small"
    with pytest.raises(UserError, match=r"train rows 867 instead of 7,000, val rows 167 instead of 1,034; .*check=off"):
        task.load(local(copy, "counts"), "paper")
    for protocol in ("paper", "standard"):
        dataset = task.load(local(copy), protocol)
        assert {name: len(examples) for name, examples in dataset.splits.items()} == {"train": 867, "val": 167}
        val = dataset.splits["val"]
        values = task.score([e.target for e in val], val).values
        prefix = "paper_" if protocol == "paper" else ""
        assert values[f"{prefix}execution"] == values[f"{prefix}exact"] == 1.0
    carved = hold_out_validation(dataset).splits["carved"]
    assert task.score([e.target for e in carved], carved).values["execution"] == 1.0


def published(shared: Path, folder: Path) -> list[dict[str, Any]]:
    """The real dev questions and schemas beside 7,000 made-up training rows; returns the questions."""
    for name in ("tables.json", "dev.json"):
        shutil.copyfile(shared / "data" / "spider" / name, folder / name)
    train = [row("perpetrator", "SELECT count(*) FROM people", str(n)) for n in range(7000)]
    (folder / "train_spider.json").write_text(
        json.dumps(
            train[:6000]
            + [one | {"db_id": "wrestler", "query": "SELECT count(*) FROM wrestler"} for one in train[6000:]]
        )
    )
    (folder / "dev.json").chmod(0o644)
    return list(json.loads((folder / "dev.json").read_text()))


def test_counts_tell_the_version_of_dev(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = published(shared, tmp_path)
    dataset = task_of().load(local(tmp_path, "counts"), "paper")
    assert (dataset.name, dataset.published, dataset.primary) == ("spider", True, "paper_exact")

    by_level: dict[str, list[int]] = {}
    databases = [e.context for e in dataset.splits["val"]]
    for number, one in enumerate(rows):
        (level,) = (level for level, n in hardness_counts([one["query"]], [databases[number]]).items() if n)
        by_level.setdefault(level, []).append(number)
    # two of medium become easy and four extra, which gives the older counts
    older = list(rows)
    for number, level in zip(by_level["medium"], ["easy"] * 2 + ["extra"] * 4, strict=False):
        older[number] = rows[by_level[level][0]]
    (tmp_path / "dev.json").write_text(json.dumps(older))
    with pytest.raises(
        UserError,
        match=(
            r"hardness easy 250 instead of 248, val rows of hardness medium 440 .*; this is the dev\.json of "
            r"before June 2020, when 44 queries were corrected; .*check=off"
        ),
    ):
        task_of().load(local(tmp_path, "counts"), "paper")
    older[0] = rows[by_level["hard"][0]]
    (tmp_path / "dev.json").write_text(json.dumps(older))
    with pytest.raises(UserError) as caught:
        task_of().load(local(tmp_path, "counts"), "paper")
    assert "June 2020" not in str(caught.value)


def test_real_prompts_in_tokens(shared: Path, tmp_path: Path) -> None:
    published(shared, tmp_path)
    tokenizer = Tokenizer(shared / "data" / "tokenizer" / "tokenizer.json")
    dataset = task_of().load(local(tmp_path, "counts"), "paper")
    val = dataset.splits["val"]
    prompts = tokenizer.encode_batch([e.prompt for e in val])
    targets = tokenizer.encode_batch([task_of().completion(e) for e in val])
    assert {ids[-1] for ids in prompts} == {4118}
    assert max(len(one) + len(other) for one, other in zip(prompts, targets, strict=True)) == 766
    assert len(tokenizer.encode(val[0].prefix)) < 14
    # the backslash is a token of its own after a question mark, and joins a full stop
    asking = [ids for example, ids in zip(val, prompts, strict=True) if "?\\Schema" in example.prompt]
    assert len(asking) > 600
    assert all(ids[ids.index(61) + 1] == tokenizer.encode("Schema")[0] for ids in asking)
    schemas = read_schemas(tmp_path / "tables.json")
    sizes = dict(
        zip(schemas, map(len, tokenizer.encode_batch([schema_text(s) for s in schemas.values()])), strict=True)
    )
    assert {name for name, size in sizes.items() if size > MAX_TOKENS} == {"baseball_1"}
    assert sizes.pop("baseball_1") == 2_194
    assert max(sizes.values()) == 1_143
