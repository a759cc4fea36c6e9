"""ssm-tune score: recompute a run's metrics from its stored predictions, without training or torch."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssm_tune.commands.arguments import Parser
from ssm_tune.methods.adapter_files import read_adapter_files
from ssm_tune.records.record import read_record, references_sha256, rows_path
from ssm_tune.records.schema import Record
from ssm_tune.reporting.grouping import limit_of
from ssm_tune.tasks.among_labels import score_predictions
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.files import read_jsonl, user_path
from ssm_tune.utils.text import printable

if TYPE_CHECKING:
    from ssm_tune.tasks.base import Dataset, Example, Task

TOLERANCE = 1e-12
"""Two values further apart than this differ. Everything is seeded, so equal inputs give equal values."""


@dataclass(frozen=True)
class Comparison:
    """One metric of one set of predictions. None: it stands only on the other side."""

    predictions: str
    metric: str
    stored: float | None
    recomputed: float | None

    @property
    def equal(self) -> bool:
        if self.stored is None or self.recomputed is None:
            return False
        return abs(self.recomputed - self.stored) <= TOLERANCE


@dataclass(frozen=True)
class Source:
    """Stored predictions, the split they answer, and what the record says they scored."""

    name: str
    path: Path
    split: str
    values: dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Print stored and recomputed metrics; 0 when all are equal, 1 when any differs. With --task, score files.

    Raises:
        UserError: the run, its predictions or its data are missing or do not belong together.
    """
    options = _parser().parse_intermixed_args(argv)
    if options.task is not None:
        from ssm_tune.commands import score_files

        return score_files.main(options)
    for name in ("predictions", "references", "gold"):
        if getattr(options, name) is not None:
            raise UserError(f"score --{name} needs --task TASK")
    if len(options.words) != 1:
        raise UserError("score needs one run folder, or --task TASK with files (see ssm-tune score --help)")
    path = Path(options.words[0])
    record = read_record(path)
    folder = path if path.is_dir() else path.parent
    if (folder / "adapter").is_dir():
        read_adapter_files(folder / "adapter")  # refuses what is damaged, although no metric hangs on it
    task, dataset = load_data(record, options.data_path)
    comparisons: list[Comparison] = []
    changed: dict[str, list[str]] = {}
    for source in sources(folder, record):
        rows = matched(read_jsonl(source.path), dataset.splits[source.split], source)
        outputs = [row["output"] for row, _ in rows]
        scored = score_predictions(task, outputs, _likeliest(rows, source), [one for _, one in rows])
        comparisons += compared(source, scored.values)
        statistics = zip(rows, scored.statistics, strict=True)
        changed[source.name] = [one.id for (row, one), fresh in statistics if _differs(row, fresh)]
    equal = all(one.equal for one in comparisons) and not any(changed.values())
    signatures = task.signatures(dataset.splits[record["splits"]["report"]])
    if options.json:
        print(
            json.dumps(
                {
                    "equal": equal,
                    "metrics": [asdict(one) for one in comparisons],
                    "signatures": signatures,
                    "examples_that_differ": changed,
                },
                indent=2,
            )
        )
    else:
        _print(record, comparisons, signatures, changed)
    return 0 if equal else 1


def load_data(record: Record, data_path: str | None = None) -> "tuple[Task, Dataset]":
    """The task and the data of a record's configuration, the data being the very ones the run saw.

    data_path: where local data lie now, if not where the run read them.

    Raises:
        UserError: the data cannot be read, or their hash is another.
    """
    from ssm_tune.tasks.base import load_task
    from ssm_tune.tasks.splits import limited

    config = record["config"]
    try:
        task = load_task(config["task"])
        data = _found(config["data"], data_path)
        dataset = task.load(data, record["cell"]["protocol"])
    except KeyError as error:
        raise UserError(f"the record's config has no section {error}: it was edited") from error
    if dataset.hash != record["hashes"]["data"]:
        raise UserError(
            f"the data {dataset.name} are not those of the run: hash {dataset.hash[:12]} now, "
            f"{record['hashes']['data'][:12]} in the record"
        )
    for split in _splits(record):
        if split not in dataset.splits:
            raise UserError(f"the record reports on {split!r}, and {dataset.name} has no such split")
    dataset = limited(dataset, limit_of(record) or None)
    for split, ids in record.get("left_out", {}).items():  # longer than the protocol takes: the run had no answer
        if split in dataset.splits:
            dataset.splits[split] = [example for example in dataset.splits[split] if example.id not in set(ids)]
    return task, dataset


def _found(data: dict[str, Any], data_path: str | None) -> dict[str, Any]:
    """The data section with the folder where local data lie now. Raises UserError where there is none."""
    if data_path is not None:
        if data.get("source") != "local":
            raise UserError(f"--data-path: this run had no local data, but data={data.get('source')}")
        return data | {"path": data_path}
    if data.get("source") == "local" and not user_path(data["path"]).exists():
        raise UserError(
            f"the run's data, data.path={data['path']}, are not there: add --data-path DIR, their folder now"
        )
    return data


def sources(folder: Path, record: Record) -> list[Source]:
    """The stored predictions of a run: frozen, best epoch, last epoch where it is another.

    Raises:
        UserError: there is nothing to score.
    """
    metrics, report = record["metrics"], record["splits"]["report"]
    found = []
    if metrics["frozen"] is not None:
        frozen = metrics["frozen"]
        found.append(Source("frozen", rows_path(folder, "predictions-frozen"), frozen["split"], frozen["values"]))
    best, last = metrics["best"], metrics["last"]
    if best is not None:
        found.append(Source("best", rows_path(folder, "predictions"), report, best["report"]))
    if last is not None:
        name = "predictions" if best and best["step"] == last["step"] else "predictions-last"
        found.append(Source("last", rows_path(folder, name), report, last["report"]))
    if not found:
        raise UserError(f"{folder}: the run {record['status']} before its first score, there is nothing to compare")
    return found


def matched(
    rows: list[dict[str, Any]], examples: "Sequence[Example]", source: Source
) -> "list[tuple[dict[str, Any], Example]]":
    """Each example of the split, in the data's order, with its prediction.

    Raises:
        UserError: a prediction lacks a field, is doubled, unknown or missing, or knew other references.
    """
    wanted = {example.id for example in examples}
    by_id: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{source.path} line {number}"
        _check_fields(row, place)
        if row["id"] in by_id:
            raise UserError(f"{place}: the id {row['id']!r} stands there twice")
        if row["id"] not in wanted:
            raise UserError(f"{place}: the id {row['id']!r} is not in the split {source.split}")
        by_id[row["id"]] = row
    pairs = []
    for example in examples:
        if example.id not in by_id:
            missing = len(wanted) - len(by_id)
            raise UserError(f"{source.path}: no prediction for {example.id!r} of {source.split} ({missing} missing)")
        row = by_id[example.id]
        if row["references_sha256"] != references_sha256(example.references):
            raise UserError(f"{source.path}: {example.id!r} was scored against other references than the data hold")
        pairs.append((row, example))
    return pairs


def compared(source: Source, recomputed: dict[str, float]) -> Iterator[Comparison]:
    """Every metric of either side."""
    for metric in dict.fromkeys([*source.values, *recomputed]):
        yield Comparison(source.name, metric, source.values.get(metric), recomputed.get(metric))


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune score",
        description="Recompute a run's metrics from its stored predictions and compare them with its record. "
        "The references come from the data that the record's config names. Exit status: 0 equal, "
        "1 different, 2 the run or its data cannot be used. Or, with --task, score predictions of any origin.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PATH",
        help="a run folder, or its record.json; with --task: settings of the task, key=value",
    )
    parser.add_argument(
        "--data-path",
        metavar="DIR",
        help="where local data lie now, if not where the run read them; "
        "for Spider's files the folder with tables.json and, if there, database/",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    files = parser.add_argument_group("without a run")
    files.add_argument("--task", help="whose metrics to compute")
    files.add_argument("--predictions", type=Path, metavar="FILE", help='one a line, or .jsonl with "output"')
    files.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        action="append",
        help='one a line (given several times: several references), or .jsonl with "references"; "id" in both matches',
    )
    files.add_argument("--gold", type=Path, metavar="FILE", help="Spider's: query, tab, db_id a line")
    return parser


def _splits(record: Record) -> set[str]:
    frozen = record["metrics"]["frozen"]
    return {record["splits"]["report"], *([frozen["split"]] if frozen else [])}


def _check_fields(row: dict[str, Any], place: str) -> None:
    for field, kind in (("id", str), ("output", str), ("references_sha256", str), ("statistics", dict)):
        if field not in row:
            raise UserError(f"{place}: no field {field!r}")
        if not isinstance(row[field], kind):
            raise UserError(f"{place}: {field!r} is {type(row[field]).__name__}, expected {kind.__name__}")


def _likeliest(rows: "Sequence[tuple[dict[str, Any], Example]]", source: Source) -> list[str] | None:
    """The likeliest label for each example; None for texts, and in the predictions of older runs.

    Raises:
        UserError: some predictions have one, and others do not.
    """
    found = [row.get("likeliest_label") for row, _ in rows]
    if all(label is None for label in found):
        return None
    if not all(isinstance(label, str) for label in found):
        raise UserError(f"{source.path}: some predictions have a text under 'likeliest_label' and others have none")
    return [str(label) for label in found]


def _differs(row: dict[str, Any], statistics: dict[str, float]) -> bool:
    stored = row["statistics"]
    return stored.keys() != statistics.keys() or any(
        not isinstance(stored[name], int | float) or abs(stored[name] - value) > TOLERANCE
        for name, value in statistics.items()
    )


def _print(
    record: Record, comparisons: list[Comparison], signatures: dict[str, str], changed: dict[str, list[str]]
) -> None:
    cell = record["cell"]
    print(printable(f"{cell['task']} on {cell['data']}, {cell['model']}, {cell['method']}, seed {cell['seed']}"))
    print(f"{'':<8}{'metric':<22}{'stored':>12}{'recomputed':>12}{'difference':>12}")
    for one in comparisons:
        numbers = [_number(one.stored), _number(one.recomputed), _difference(one)]
        print(f"{one.predictions:<8}{printable(one.metric):<22}" + "".join(f"{number:>12}" for number in numbers))
    for name, line in signatures.items():
        print(printable(f"{name}: {line}"))
    for name, ids in changed.items():
        if ids:
            print(f"{name}: the stored statistics of {len(ids)} examples differ, the first is {printable(ids[0])!r}")
    print("equal" if all(one.equal for one in comparisons) and not any(changed.values()) else "different")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.8f}"


def _difference(one: Comparison) -> str:
    if one.stored is None or one.recomputed is None:
        return "none"
    return f"{one.recomputed - one.stored:+.1e}" if one.recomputed != one.stored else "0"
