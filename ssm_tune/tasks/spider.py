"""Spider: SQL for a question about a database unseen in training. Yu et al. (2018), arXiv 1809.08887."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssm_tune.config.protocol import published_data
from ssm_tune.hub.download import dataset_files, read_table
from ssm_tune.metrics.sql import (
    LEVELS,
    Database,
    Schema,
    check_golds,
    find_databases,
    find_schema,
    hardness_counts,
    read_schemas,
    signatures,
    spider_scores,
)
from ssm_tune.tasks.base import (
    OWN_WORDING,
    SEPARATOR,
    Dataset,
    Example,
    Roles,
    Scored,
    Task,
    data_name,
    make_dataset,
    text_field,
)
from ssm_tune.tasks.files import ACCEPT, HUB_CHANGED, check_counts, read_objects
from ssm_tune.tasks.sample_data import SPIDER_FOLDER
from ssm_tune.tasks.splits import hold_out_validation
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import user_path
from ssm_tune.utils.text import as_decoded, clean_up, nfc

COLUMNS = ("db_id", "query", "question")
FILES = {"train": "train_spider.json", "val": "dev.json"}
"""The official code leaves train_others.json alone."""
HUB_FILES = {"train": "spider/train-*.parquet", "val": "spider/validation-*.parquet"}
HOLDS = "Spider's folder holds tables.json, train_spider.json, dev.json and database/"
COUNTS = {"train rows": 7_000, "val rows": 1_034}
HARDNESS = dict(zip(LEVELS, (248, 446, 174, 166), strict=True))
"""Questions of dev.json by hardness, since 44 of its queries were corrected in June 2020."""
OLD_HARDNESS = dict(zip(LEVELS, (250, 440, 174, 170), strict=True))
MAX_TOKENS = 1536
NEEDED = "add task.databases=DIR, Spider's unpacked archive with tables.json and database/ (yale-lily.github.io/spider)"
UNSCORED = "not scored: there is no folder database/"


class Spider(Task):
    """An instruction line, encoded apart, then question and schema; the query is the answer.

    hub: the questions' id on the hub; revision: its commit, None for the newest. instruction: the first line, without
    its end. databases: for data=hub, Spider's unpacked archive, since the hub has neither schemas nor databases.
    time_limit: seconds that a query may run when it is scored.
    """

    # a blank that goes missing (= 'x' becomes ='x') can make a query one that the official grammar refuses
    clean_up = False

    notes = (OWN_WORDING,)

    def __init__(
        self, name: str, hub: str, revision: str | None, instruction: str, databases: str | None, time_limit: float
    ) -> None:
        super().__init__(name)
        if isinstance(time_limit, bool) or not isinstance(time_limit, int | float) or not 0 < time_limit < 3600:
            raise UserError(f"task.time_limit must be a positive number of seconds, got {time_limit!r}")
        if not isinstance(instruction, str):
            raise UserError(f"task.instruction must be text, got {instruction!r}")
        self.hub, self.revision, self.instruction = hub, revision, instruction
        self.databases, self.time_limit = databases, float(time_limit)

    def load(self, data: dict[str, Any], protocol: str) -> Dataset:
        origin: dict[str, str] = {}
        if self.databases is not None and data["source"] != "hub":
            raise UserError(f"task.databases is only read with data=hub; with data={data['source']} leave it out")
        if data["source"] == "hub":
            if self.databases is None:
                raise UserError(f"{self.hub} has no databases, only questions: {NEEDED}")
            folder, where, remedy = user_path(self.databases), self.hub, HUB_CHANGED
            rows = self.questions(origin)
        else:
            folder = SPIDER_FOLDER if data["source"] == "sample" else user_path(data["path"])
            where, remedy = str(folder), ACCEPT
            rows = {split: read_objects(folder / file, COLUMNS, HOLDS, "questions") for split, file in FILES.items()}
        schemas = read_schemas(folder / "tables.json")
        name, published = data_name(data, self.name), published_data(data)
        with _named(where):
            splits = {
                split: [
                    self._example(n, row, find_schema(schemas, row["db_id"]), protocol) for n, row in enumerate(given)
                ]
                for split, given in rows.items()
            }
        if published:
            _check(where, remedy, splits, origin)
        evaluated = _evaluated(Dataset(name, published, splits, "", "", ()))
        with _named(where):
            _hardness(evaluated)  # raises for gold queries that do not parse
        paths = _databases(folder / "database", {example.group for example in evaluated})
        if paths is None:
            origin["execution"] = UNSCORED
            metrics: tuple[str, ...] = ("exact",)
        else:
            splits = {split: [_with(example, paths) for example in given] for split, given in splits.items()}
            metrics = ("execution", "exact")
        if protocol == "paper":
            metrics = tuple(f"paper_{metric}" for metric in metrics)
        extra = self._digest(folder / "tables.json", paths or {}, data["source"] == "sample")
        return make_dataset(name, published, splits, metrics[0], metrics, origin, extra)

    def _example(self, number: int, row: dict[str, str], schema: Schema, protocol: str) -> Example:
        prefix, prompt = self._prompt(row["question"], schema_text(schema), protocol)
        # the official code teaches queries in lower case
        target = row["query"].lower().strip() if protocol == "paper" else row["query"].strip()
        database = Database(schema.db_id, schema)
        return Example(str(number), prompt, target, (row["query"],), prefix, group=schema.db_id, context=database)

    def _prompt(self, question: str, schema: str, protocol: str) -> tuple[str, str]:
        """Prefix and prompt."""
        end = "\\" if protocol == "paper" else "\n"  # the official prompt has a backslash where a line end was meant
        return f"{self.instruction}\n{SEPARATOR}", f"Question: {question}{end}Schema: {schema}\n{SEPARATOR}"

    @property
    def fields(self) -> tuple[str, ...]:
        return "question", "schema"

    def example_of(self, row: Mapping[str, Any], protocol: str) -> Example:
        """schema: the text that the model reads, as ``ssm-tune data show spider`` prints it."""
        prefix, prompt = self._prompt(text_field(row, "question"), text_field(row, "schema"), protocol)
        return Example("", prompt, "", (), prefix)

    def questions(self, origin: dict[str, str]) -> dict[str, list[dict[str, str]]]:
        """The hub's rows of each split, counted; the commit goes to ``origin``. They need no databases yet.

        Raises UserError where they cannot be downloaded, or are not the published ones.
        """
        had = dataset_files(self.hub, self.revision, list(HUB_FILES.values()))
        origin |= {"hub": self.hub, "commit": had.revision}
        rows = {split: read_table(had.files[pattern], COLUMNS) for split, pattern in HUB_FILES.items()}
        for split, given in rows.items():
            for number, row in enumerate(given):
                if not all(isinstance(row[column], str) for column in COLUMNS):
                    raise UserError(f"{self.hub}, {HUB_FILES[split]}: row {number} (counted from 0) lacks a text")
        found = {f"{split} rows": len(given) for split, given in rows.items()}
        check_counts(self.hub, "Spider", found, COUNTS, HUB_CHANGED)
        return rows

    def _digest(self, tables: Path, paths: dict[str, Path], sample: bool) -> str:
        """Hash of what scores depend on beside texts: schemas, databases, the time limit."""
        digest = hashlib.sha256(tables.read_bytes() + f"\n{self.time_limit}".encode())
        for db_id, path in sorted(paths.items()):
            # by content, since the bytes of files made again vary with the version of SQLite
            content = _content(path) if sample else _file_digest(path)
            digest.update(f"\n{db_id} {content}".encode())
        return digest.hexdigest()

    def published_roles(self) -> Roles:
        return Roles(train="train", selection="val", report="val")

    def max_tokens(self, protocol: str) -> int | None:
        return MAX_TOKENS if protocol == "paper" else None

    def check_scoring(self, examples: Sequence[Example]) -> None:
        """Raise UserError for a gold query that does not parse or run."""
        paper = [_paper_gold(example) for example in examples]
        databases = [example.context for example in examples]
        check_golds([_gold(example) for example in examples], databases, paper, self.time_limit)

    def score(self, predictions: Sequence[str], examples: Sequence[Example]) -> Scored:
        golds = [_gold(example) for example in examples]
        databases = [example.context for example in examples]
        paper = [_paper_gold(example) for example in examples]
        # as the official code decodes them, for the paper's metrics
        cleaned = [clean_up(nfc(prediction)) for prediction in predictions]
        return Scored(*spider_scores(predictions, golds, databases, paper, self.time_limit, cleaned))

    def signatures(self, examples: Sequence[Example]) -> dict[str, str]:
        ran = all(example.context.path is not None for example in examples)
        lines = signatures(len(examples), self.time_limit)
        return {name: line for name, line in lines.items() if ran or "execution" not in name}


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put where the data are in front of a UserError's message."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def schema_text(schema: Schema) -> str:
    """A database's tables, columns and keys as the official prompt spells them; table names keep their case there."""
    return " | ".join(f"{table}: {_columns(schema, place)}" for place, table in enumerate(schema.tables))


def _columns(schema: Schema, table: int) -> str:
    parts = [f"{name} {kind}" for (of, name), kind in zip(schema.columns, schema.types, strict=True) if of == table]
    keys = [schema.columns[parent] for child, parent in schema.foreign_keys if schema.columns[child][0] == table]
    parts.append("foreign: " + " , ".join(f"{name} from {schema.tables[of]}" for of, name in keys))
    primary = [schema.columns[place] for place in schema.primary_keys]
    parts.append("primary: " + " , ".join(name for of, name in primary if of == table))
    return " ,  ".join(parts).lower()


def _gold(example: Example) -> str:
    """The query as published. It is not taken through the tokenizer's clean-up as predictions are: a blank that goes
    missing in a literal, or between ``=`` and ``'s``, would make it another query, or none."""
    return example.references[0].strip()


def _paper_gold(example: Example) -> str:
    """The official code's: lower-cased and cleaned up as a prediction is.

    No query of dev.json is broken by that. Where one is (``= 's`` loses its blank), the official evaluator goes on
    with the gold of the question before; here this one keeps its blanks.
    """
    plain = _gold(example).lower()
    cleaned = as_decoded(plain)
    try:
        hardness_counts([cleaned], [example.context])
    except UserError:
        return plain
    return cleaned


def _hardness(examples: Sequence[Example]) -> dict[str, int]:
    return hardness_counts([_gold(example) for example in examples], [example.context for example in examples])


def _check(where: str, remedy: str, splits: dict[str, list[Example]], origin: dict[str, str]) -> None:
    found = {f"{split} rows": len(examples) for split, examples in splits.items()}
    expected = dict(COUNTS)
    if found == expected:  # else there may be other databases, for which hardness is not known
        levels = _hardness(splits["val"])
        old = levels == OLD_HARDNESS
        if "hub" in origin:
            origin["dev questions"] = "of before June 2020" if old else "as corrected in June 2020"
        elif old:
            remedy = f"this is the dev.json of before June 2020, when 44 queries were corrected; {remedy}"
        found |= {f"val rows of hardness {level}": count for level, count in levels.items()}
        if not (old and "hub" in origin):
            expected |= {f"val rows of hardness {level}": count for level, count in HARDNESS.items()}
    check_counts(where, "Spider", found, expected, remedy)


def _evaluated(dataset: Dataset) -> list[Example]:
    """What may select or be reported: val, and the databases of train that are set aside where that is asked for."""
    try:
        return [*dataset.splits["val"], *hold_out_validation(dataset).splits["carved"]]
    except UserError:  # too few to hold some out, which is an error only for a run that needs it
        return list(dataset.splits["val"])


def _databases(folder: Path, db_ids: Iterable[str]) -> dict[str, Path] | None:
    """The checked SQLite file of every database; None where there is no folder of them at all. Raises UserError."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: Spider's archive has a folder of databases there")
    missing = [db_id for db_id in sorted(db_ids) if not (folder / db_id / f"{db_id}.sqlite").is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks the databases {', '.join(missing)} (DB_ID/DB_ID.sqlite each): unpack Spider's archive "
            "again, or take the whole folder away to have exact match alone"
        )
    return find_databases(folder, sorted(db_ids))


def _with(example: Example, paths: dict[str, Path]) -> Example:
    return replace(example, context=replace(example.context, path=paths.get(example.group)))


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(path: Path) -> str:
    """Hash of a small database's tables and rows."""
    digest = hashlib.sha256()
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall():
            digest.update(repr((name, sql)).encode())
            for row in connection.execute(f'SELECT * FROM "{name}"'):
                digest.update(repr(row).encode())
    return digest.hexdigest()
