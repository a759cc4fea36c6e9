"""``ssm-tune evaluate``: score a finished adapter, on its run's data or on others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_tune.commands.arguments import Parser
from ssm_tune.commands.score_files import Result, print_result, result_of
from ssm_tune.tasks.base import Dataset, Task
from ssm_tune.utils.errors import Diverged, UserError
from ssm_tune.utils.files import write_jsonl
from ssm_tune.utils.progress import progress

if TYPE_CHECKING:
    from ssm_tune.api import Tuned
    from ssm_tune.generation.settings import DecodeSettings

SETTINGS = ("task", "data", "model", "decode", "protocol", "device")
"""What settings may be of."""


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune evaluate",
        description="Score a finished adapter: a run's folder, or what adapter.save() wrote. Without settings, on the "
        "split that the run reported; data=..., data.path=... and the like name other data, as for a run. Of a file of "
        "your own all lines are scored, unless --split is given. Prints every metric of the task.",
        epilog="example: ssm-tune evaluate results/runs/classify/... data.path=OTHER.jsonl --predictions answers.jsonl",
    )
    parser.add_argument("adapter", type=Path, metavar="RUN_OR_ADAPTER", help="a run's folder, or an adapter's")
    parser.add_argument("settings", nargs="*", metavar="key=value", help=f"settings of {', '.join(SETTINGS)}")
    parser.add_argument("--split", metavar="NAME", help="the split to score (default: the one that runs report)")
    parser.add_argument(
        "--model", metavar="NAME", help="where the adapter's file names none: of conf/model, or a folder"
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="also write them: .jsonl, or .jsonl.gz; a new file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str]) -> int:
    """Print the scores. Raises UserError for an adapter, settings or data that cannot be used."""
    options = _parser().parse_intermixed_args(arguments)
    if options.predictions is not None and options.predictions.exists():
        raise UserError(f"--predictions {options.predictions} exists already: name a new file, nothing is overwritten")
    from ssm_tune.experiment.finished import asked_task, composed, model_words, read_finished

    finished = read_finished(options.adapter)
    config, keys = composed(finished, [*model_words(options.model), *options.settings], SETTINGS)
    asked = asked_task(finished, config, keys)
    if asked is None:
        raise UserError(f"{finished.folder} names no task, as adapter.save() writes it: add task=TASK, and its data")
    if asked.data is None:
        raise UserError(f"on which data? Add data=hub, data=sample, or data=local data.path=DIR, for {asked.task.name}")
    task = asked.task
    if task.mode == "classify" and asked.split is None:
        task.label_names()  # raises where the answers' labels are unknown: other data could give them another order
    dataset, split = task.to_score(asked.data, asked.protocol, options.split or asked.split)
    task.check_scoring(dataset.splits[split])
    dataset = dataclasses.replace(dataset, splits={split: dataset.splits[split]})

    # torch: only once settings and data are good
    from ssm_tune.api import load_tuned
    from ssm_tune.generation.settings import DecodeSettings

    tuned = load_tuned(finished.folder, config.device, config.model if "model" in keys else None)
    given = {key.split(".")[1] for key in keys if key.startswith("decode.")}
    decode = DecodeSettings(**tuned.decode | {name: getattr(config.decode, name) for name in given})
    result = _scored(tuned, task, asked.protocol, dataset, decode, options.predictions)
    about = {
        "adapter": str(finished.folder),
        "method": tuned.adapter.method.name,
        "data": dataset.name,
        "split": split,
        "protocol": asked.protocol,
        "data_hash": dataset.hash,
    }
    if options.json:
        print(json.dumps(about | {name: value for name, value in vars(result).items() if value is not None}, indent=2))
    else:
        print(f"{about['method']} on {dataset.name}, {split}, {asked.protocol} protocol")
        print_result(result)
    return 0


def _scored(
    tuned: Tuned, task: Task, protocol: str, dataset: Dataset, decode: DecodeSettings, predictions_file: Path | None
) -> Result:
    """The scores on the data set's one split, by the code that a run's evaluation has; predictions are written, too."""
    from ssm_tune.data.selection import within_token_limit
    from ssm_tune.experiment.predict_and_score import predict_examples, prediction_rows, score_outputs

    dataset, _, notes = within_token_limit(dataset, task, protocol, tuned.tokenizer)
    ((split, examples),) = dataset.splits.items()
    ui = progress()
    for note in notes:
        ui.say(f"note: {note}")
    try:
        outputs = predict_examples(tuned.model, tuned.tokenizer, task, examples, decode, ui, split)
    except Diverged as error:
        raise UserError(f"the model cannot be scored: {error}") from error
    predictions = score_outputs(task, outputs, examples)
    if predictions_file is not None:
        write_jsonl(predictions_file, prediction_rows(examples, predictions))
    return result_of(task, examples, predictions.scored.values)
