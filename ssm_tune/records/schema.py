"""The schema of record.json: its fields and their types, and the check that a record keeps them.

JSON has no NaN and no infinity: they become null, which only fields that may be null take.
"""

import json
import types
from typing import Any, Literal, NotRequired, TypedDict, cast, get_args, get_origin, get_type_hints, is_typeddict

SCHEMA = 1
LARGEST = 2**63
"""No number of a record is larger: what is comes of a damaged file."""


class Cell(TypedDict):
    """One place in the grid: what a user would name to get this run again."""

    model: str
    data: str  # a stand-in's own name, never that of the data set it stands in for
    task: str
    method: str
    method_options: dict[str, Any]
    protocol: str
    seed: int


class Splits(TypedDict):
    """Which split trained, which chose the epoch, which is reported."""

    train: str
    selection: str
    report: str
    selected_on_report: bool  # the last two are one and the same


class Frozen(TypedDict):
    """The score of the model before any training."""

    split: str
    values: dict[str, float]


class Epoch(TypedDict):
    """One evaluation; ``step`` counts optimizer steps."""

    epoch: int
    step: int
    train_loss: float | None  # null: not finite
    selection: dict[str, float]


class Chosen(TypedDict):
    """An epoch (the best by the selection split, or the last) with its score on the report split."""

    epoch: int
    step: int
    selection: dict[str, float]
    report: dict[str, float]


class Metrics(TypedDict):
    """Values are fractions 0..1; best and last are null only where a run diverged before its first score."""

    frozen: Frozen | None
    best: Chosen | None
    last: Chosen | None
    epochs: list[Epoch]


class Parameters(TypedDict):
    """Numbers of parameters; base: of the model without the method; share = trainable / total."""

    trainable: int
    total: int
    base: int
    share: float


class LearningRate(TypedDict):
    """The peak learning rate and where it comes from."""

    value: float
    source: str


class Tokens(TypedDict):
    """Tokens seen in training (padding excluded) and generated."""

    train: int
    generated: int


Seconds = TypedDict(
    "Seconds",  # no class: "import" is no name of Python's
    {
        "start": NotRequired[float | None],
        "import": NotRequired[float | None],
        "data": NotRequired[float | None],
        "model": NotRequired[float | None],
        "kernels": NotRequired[float | None],
        "capture": NotRequired[float | None],
        "write": NotRequired[float | None],
        "load": float | None,
        "frozen": float | None,
        "train": float | None,
        "evaluate": float | None,
        "total": float,
    },
)
"""Wall time by phase (utils/phases.py); null where a phase did not run (a frozen score taken from the cache).

The phases add up to the total, which begins with the process, or in a sweep's later runs where the run before ended;
older records lack some phases, and their total begins after the imports. load: start, import, data and model.
"""


class Backend(TypedDict):
    """What was resolved, not what was asked for."""

    device: str
    scan: str
    dtype: str
    adapter_dtype: str
    optimizer: NotRequired[str]  # "AdamW", or "AdamW, fused", which rounds a narrow adapter once a step
    threads: NotRequired[int]  # of PyTorch on a CPU, in each process; absent: on a GPU, and in older records
    processes: NotRequired[int]  # that shared each batch; absent: one
    micro_batch: NotRequired[int | None]  # examples at a time in each of them; null: all of its share
    deterministic: NotRequired[bool]
    recomputed_blocks: NotRequired[int]  # those whose activations were computed again for the backward
    partly_recomputed_blocks: NotRequired[int]  # others, at most, of which the cheap ones were
    members: NotRequired[int]  # runs whose steps were computed together with this one's, itself included; absent: one
    recompute: NotRequired[bool]  # in older records: whether those of all blocks were


class Hashes(TypedDict):
    """sha256 of contents."""

    data: str
    model: str
    tokenizer: str | None


class Record(TypedDict):
    """record.json. Further keys are kept; these must be there."""

    schema: int
    status: Literal["completed", "diverged"]
    cell: Cell
    config: dict[str, Any]
    config_hash: str
    request_hash: NotRequired[str]  # of what was asked for (run_id.py); absent: in older records
    primary_metric: str
    headline: list[str]  # the metrics that tables show, in their order
    splits: Splits
    metrics: Metrics
    signatures: dict[str, str]
    parameters: Parameters
    learning_rate: LearningRate
    steps: int
    tokens: Tokens
    seconds: Seconds
    peak_memory_bytes: int | None
    sessions: NotRequired[int]  # processes that it took: one, and one more each time it was resumed
    backend: Backend
    hashes: Hashes
    origin: NotRequired[dict[str, str]]  # where the data come from: hub id and commit, say
    left_out: NotRequired[dict[str, list[str]]]  # by split, ids of examples longer than the protocol takes
    versions: dict[str, str]
    git: dict[str, Any] | None
    hardware: dict[str, Any]
    notes: list[str]
    started: str  # ISO 8601
    finished: str


def validate(record: Any) -> Record:
    """The record itself, if it keeps the schema.

    Raises:
        ValueError: one phrase that names the field.
    """
    if not isinstance(record, dict) or "schema" not in record:
        raise ValueError('not a run\'s record (no field "schema")')
    if type(record["schema"]) is not int:
        raise ValueError(f"schema is {record['schema']!r}, expected {SCHEMA}")
    if record["schema"] < SCHEMA:
        raise ValueError(f"schema {record['schema']} is older than this version reads ({SCHEMA}): run it again")
    if record["schema"] > SCHEMA:
        raise ValueError(f"schema {record['schema']} is newer than this version reads ({SCHEMA}): upgrade ssm-tune")
    check_fields(record, Record, "")
    for section in ("train", "decode", "splits"):
        _expect(
            isinstance(record["config"].get(section, {}), dict), record["config"].get(section), "an object", section
        )
    gpu = record["hardware"].get("gpu")
    named = gpu is None or (isinstance(gpu, dict) and isinstance(gpu.get("name"), str))
    _expect(named, gpu, "null or an object with a name", "hardware.gpu")
    primary = record["primary_metric"]
    for which in ("best", "last"):
        chosen = record["metrics"][which]
        if chosen is None:
            if record["status"] == "completed":
                raise ValueError(f"metrics.{which} is null in a completed run")
            continue
        for part in ("selection", "report"):
            if primary not in chosen[part]:
                raise ValueError(f"missing field metrics.{which}.{part}.{primary} (the primary metric)")
    return cast(Record, record)


def check_fields(value: Any, hint: Any, where: str) -> None:
    """Raises ValueError naming ``where`` unless ``value`` is what the type hint (one used above) says."""
    origin, arguments = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        _expect(isinstance(value, dict), value, "an object", where)
        for key, inner in get_type_hints(hint).items():
            path = f"{where}.{key}".lstrip(".")
            if key in value:
                check_fields(value[key], inner, path)
            elif key in hint.__required_keys__:
                raise ValueError(f"missing field {path}")
    elif origin is types.UnionType:
        if value is not None:
            check_fields(value, next(option for option in arguments if option is not types.NoneType), where)
    elif origin is Literal:
        _expect(value in arguments, value, " or ".join(arguments), where)
    elif origin is list:
        _expect(isinstance(value, list), value, "a list", where)
        for index, item in enumerate(value):
            check_fields(item, arguments[0], f"{where}[{index}]")
    elif origin is dict:
        _expect(isinstance(value, dict), value, "an object", where)
        for key, item in value.items():
            check_fields(item, arguments[1], f"{where}.{key}")
    elif hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
        _expect(number, value, "a number", where)
    elif hint is not Any:
        _expect(
            type(value) is hint and (hint is not int or abs(value) <= LARGEST),
            value,
            {"int": "an integer", "str": "text"}.get(hint.__name__, "true or false"),
            where,
        )


def _expect(good: bool, value: Any, expected: str, where: str) -> None:
    if not good:
        raise ValueError(f"{where} is {json.dumps(value)[:60]}, expected {expected}")
