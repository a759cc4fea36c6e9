"""``ssm-tune generate``: answer prompts with a tuned model, in the form that its task was trained in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssm_tune.commands.arguments import Parser
from ssm_tune.commands.prompts import Prompt, PromptReader
from ssm_tune.config.choices import CHOICES
from ssm_tune.utils.errors import UserError

SETTINGS = ("task", "model", "protocol")
"""What settings may be of."""


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune generate",
        description="Answer prompts with a tuned model. The task's instruction and separators are put around a prompt, "
        "as in training. A classifier answers with a label and its probability among the labels. Where the adapter "
        "names no task (adapter.save() in Python writes none), a prompt is taken as it is typed, unless task=TASK is "
        "given.",
        epilog="examples: ssm-tune generate --adapter results/runs/samsum/... --prompt 'Anna: Shall we go on Friday?'; "
        'two texts: --prompt \'{"sentence1": "...", "sentence2": "..."}\'',
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of task, model or protocol")
    parser.add_argument(
        "--adapter",
        required=True,
        type=Path,
        metavar="DIR",
        help="a run's folder, the adapter/ folder in it, or one that adapter.save() or peft wrote",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompt", help="the text to answer, or a JSON object of the task's fields; - reads it from standard input"
    )
    source.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a prompt a line (\\n for a line's end), or .jsonl with the fields"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    parser.add_argument(
        "--model", metavar="NAME", help="where the adapter's file names none: of conf/model, or a folder"
    )
    parser.add_argument("--num-beams", type=int, help="1 is greedy (default: as the run decoded)")
    parser.add_argument("--max-new-tokens", type=int, help="(default: as the run decoded)")
    parser.add_argument("--device", default="auto", choices=CHOICES["device"])
    parser.add_argument("--raw", action="store_true", help="take prompts as typed: put nothing of the task around them")
    return parser


def main(arguments: list[str]) -> int:
    """Print the answers. Raises UserError for an adapter or a prompt that cannot be used."""
    options = _parser().parse_intermixed_args(arguments)
    if options.prompt is not None and options.prompt != "-" and not options.prompt.strip():
        raise UserError("--prompt is empty")
    from ssm_tune.experiment.finished import asked_task, composed, model_words, read_finished

    finished = read_finished(options.adapter)
    config, keys = composed(finished, [*model_words(options.model), *options.settings], SETTINGS)
    asked = asked_task(finished, config, keys)
    reader = PromptReader(asked, options.raw)
    if options.prompts is not None:
        prompts = reader.file(options.prompts)
    else:
        prompts = [reader.text(sys.stdin.read() if options.prompt == "-" else options.prompt, "--prompt")]
    task = asked.task if asked else None
    labels = task.label_names() if task and task.mode == "classify" else None

    # torch: only once the arguments are good
    from ssm_tune.api import load_tuned
    from ssm_tune.experiment.answer import answer
    from ssm_tune.generation.settings import DecodeSettings
    from ssm_tune.models.threads import cpu_threads
    from ssm_tune.utils.progress import Silent, progress

    tuned = load_tuned(finished.folder, options.device, config.model if "model" in keys else None)
    wanted: dict[str, Any] = {"num_beams": options.num_beams, "max_new_tokens": options.max_new_tokens}
    decode = DecodeSettings(**tuned.decode | {name: value for name, value in wanted.items() if value is not None})
    ui = progress() if options.prompts is not None else Silent()
    examples = [prompt.example for prompt in prompts]
    with cpu_threads(tuned.model):
        answers = answer(tuned.model, tuned.tokenizer, task, labels, examples, decode, ui)
    for line in _lines(prompts, answers, options.json, one_a_line=options.prompts is not None):
        print(line)
    return 0


def _lines(
    prompts: list[Prompt], answers: list[tuple[str, float | None]], as_json: bool, one_a_line: bool
) -> Iterator[str]:
    for prompt, (text, probability) in zip(prompts, answers, strict=True):
        if as_json:
            row = {"prompt": prompt.given, "answer": text}
            yield json.dumps(row if probability is None else row | {"probability": probability}, ensure_ascii=False)
        else:
            shown = text.replace("\n", "\\n") if one_a_line else text
            yield shown if probability is None else f"{shown}\t{probability:.4f}"
