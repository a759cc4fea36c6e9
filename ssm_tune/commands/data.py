"""``ssm-tune data``: fetch published data once, and look at examples as the model sees them. Imports no torch."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssm_tune.commands.arguments import Parser
from ssm_tune.config.choices import CHOICES
from ssm_tune.config.compose import compose
from ssm_tune.config.groups import benchmarks, conf_dir, names
from ssm_tune.config.overrides import on_command_line
from ssm_tune.config.protocol import resolved_protocol
from ssm_tune.config.schema import Config
from ssm_tune.data.tokenization import TokenizedExample, tokenize_training, too_long
from ssm_tune.hub.download import used_files
from ssm_tune.models.tokenizer import Tokenizer, load_tokenizer
from ssm_tune.tasks.base import Dataset, Example, Task, load_task
from ssm_tune.tasks.spider import NEEDED, Spider
from ssm_tune.utils.errors import UserError, nearest

METHOD = "method=full"
"""Every configuration names one; data do not depend on it."""
ACTIONS = ("fetch", "show")
SHOWN = 3
"""Examples, unless --n says otherwise."""
VISIBLE = str.maketrans({" ": "·", "\t": "→", "\r": "␍", "\n": "⏎"})


def main(arguments: Sequence[str]) -> int:
    """Fetch or show. Raises UserError for an unknown task or split, and where data cannot be had."""
    if not arguments or arguments[0] not in ACTIONS:
        _parser().parse_args(arguments[:1])
    action = arguments[0]
    options = (_fetch_parser if action == "fetch" else _show_parser)().parse_intermixed_args(arguments[1:])
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # texts hold what an old terminal's encoding may not
    words = [one for one in options.words if "=" not in one]
    settings = [one for one in options.words if "=" in one]
    if action == "fetch":
        return fetch(words, settings)
    if len(words) != 1:
        raise UserError("data show needs one task: ssm-tune data show TASK")
    return show(words[0], settings, options)


def fetch(tasks: Sequence[str], settings: Sequence[str]) -> int:
    """Download, verify and count each task's published data; 2 where any could not be had, after all were tried.

    Settings of a task (task.KEY) go to the tasks that have them. Raises UserError for one that none has.
    """
    wanted = benchmarks() if "all" in tasks else [_known(task) for task in tasks]
    if not wanted:
        raise UserError(f"data fetch needs tasks: all, or of {', '.join(names('task'))}")
    keys = {name: _task_keys(name) for name in wanted}
    for key in map(_key, settings):
        if key.startswith("task.") and not any(key.split(".")[1] in its for its in keys.values()):
            there = sorted({f"task.{one}" for its in keys.values() for one in its})
            raise UserError(f"there is no setting {key!r}: {nearest(key, there)}")
    failed = 0
    for name in wanted:
        its = [one for one in settings if not _key(one).startswith("task.") or _key(one).split(".")[1] in keys[name]]
        try:
            config = compose([METHOD, f"task={name}", "data=hub", *its])
            _fetch(load_task(config.task), config)
        except UserError as error:
            if len(wanted) == 1:
                raise
            failed += 1
            print(f"ssm-tune: {name}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2 if failed else 0


def _key(setting: str) -> str:
    return setting.split("=")[0].lstrip("+~")


def _task_keys(name: str) -> set[str]:
    """The settings of a task, as conf/task has them."""
    section = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / f"{name}.yaml"))
    assert isinstance(section, dict)
    return set(section["task"]) - {"_target_"}


def _fetch(task: Task, config: Config) -> None:
    if config.data.source != "hub":
        raise UserError(f"data fetch gets the hub's data: leave out data.source={config.data.source}")
    used_files()
    splits: Mapping[str, Sequence[Any]]
    lacking = isinstance(task, Spider) and task.databases is None
    if isinstance(task, Spider) and lacking:  # which the hub does not have: no reason to leave the questions there
        splits = task.questions({})
    else:
        splits = task.load(dataclasses.asdict(config.data), "paper").splits
    files = used_files()
    print(task.name)
    for repo, commit in dict.fromkeys((repo, commit) for repo, commit, _ in files):
        print(f"  {repo} at commit {commit}")
    for (_, _, name), path in files.items():
        print(f"  {path.stat().st_size:>14,} bytes  {name}")
    for split, rows in splits.items():
        print(f"  {len(rows):>14,} rows   {split}")
    if lacking:
        print(f"  the databases are still needed: for a run {NEEDED}")
    print(flush=True)


def show(name: str, settings: Sequence[str], options: argparse.Namespace) -> int:
    """Print the first examples of a split, or the statistics of all."""
    if options.statistics and options.n is not None:
        raise UserError("--n is of no use with --statistics, which counts whole splits")
    wanted = SHOWN if options.n is None else options.n
    if wanted < 1:
        raise UserError(f"--n must be at least 1, got {options.n}")
    source = options.data or ("local" if options.data_path else "hub")
    chosen = [METHOD, f"task={_known(name)}", f"data={source}"]
    if options.data_path:
        chosen.append(f"data.path={on_command_line(str(Path(options.data_path).expanduser()))}")
    if options.check:
        chosen.append(f"data.check={options.check}")
    config = compose([*chosen, *settings])
    data = dataclasses.asdict(config.data)
    protocol = resolved_protocol(options.protocol or config.protocol, data)
    task = load_task(config.task)
    dataset = task.load(data, protocol)
    if options.split not in (None, *dataset.splits):
        there = ", ".join(dataset.splits)
        raise UserError(f"{dataset.name} has no split {options.split!r}; there are {there}")
    tokenizer = _tokenizer(options.tokenizer, source, config)
    if options.statistics:
        splits = [options.split] if options.split else list(dataset.splits)
        _print_statistics(task, dataset, splits, tokenizer, protocol)
        return 0
    split = options.split or "train"
    examples = dataset.splits[split][:wanted]
    for number, (example, encoded) in enumerate(
        zip(examples, tokenize_training(examples, task, tokenizer), strict=True)
    ):
        print(f"{dataset.name}, {split}, example {number + 1} of {len(dataset.splits[split]):,}: id {example.id}")
        _print_example(task, example, encoded, tokenizer)
    if task.max_tokens(protocol) is not None:
        every = dataset.splits[split]
        lengths = [len(encoded.tokens) for encoded in tokenize_training(every, task, tokenizer)]
        print(_left_out(task, protocol, split, every, lengths, tokenizer))
    return 0


def _print_example(task: Task, example: Example, encoded: TokenizedExample, tokenizer: Tokenizer) -> None:
    for part, text in (("prefix", example.prefix), ("prompt", example.prompt), ("answer", task.completion(example))):
        if text:
            lines = text.translate(VISIBLE).replace("⏎", "⏎\n").removesuffix("\n").split("\n")
            print(*(f"  {part if at == 0 else '':<8}{line}" for at, line in enumerate(lines)), sep="\n")
    start = len(encoded.tokens) - encoded.labels
    tokens = [tokenizer.decode([token], clean_up=False).translate(VISIBLE) for token in encoded.tokens]
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    shown = tokens[:start] + [f"{bold}[{token}]{plain}" for token in tokens[start:]]
    print(f"  {'tokens':<8}{' '.join(shown)}")
    print(f"  {'':<8}{len(tokens)} tokens, {encoded.labels} of them with loss: those in [brackets]\n")


def _left_out(
    task: Task, protocol: str, split: str, examples: Sequence[Example], lengths: Sequence[int], tokenizer: Tokenizer
) -> str:
    """How many examples a run does without, by the limit of the protocol. lengths: whole sequences, in tokens."""
    limit = task.max_tokens(protocol)
    assert limit is not None
    long = len(too_long(examples, lengths, limit, tokenizer))
    return (
        f"a run with protocol={protocol} leaves out {long:,} of {len(examples):,} examples of {split}: "
        f"prompt and answer longer than {limit} tokens"
    )


def _print_statistics(task: Task, dataset: Dataset, splits: Sequence[str], tokenizer: Tokenizer, protocol: str) -> None:
    """A row a split; sequences are prefix, prompt and completion, as in training."""
    print(f"{dataset.name}: sequences in the tokenizer {tokenizer.hash[:12]}")
    print(
        f"{'split':<8}{'examples':>12}{'tokens':>14}{'longest':>10}{'seconds':>10}{'examples/s':>12}  id of the longest"
    )
    notes = []
    for split in splits:
        examples = dataset.splits[split]
        begun = time.perf_counter()
        lengths = [len(encoded.tokens) for encoded in tokenize_training(examples, task, tokenizer)]
        seconds = time.perf_counter() - begun
        longest, rate = max(lengths), len(examples) / seconds
        where = examples[lengths.index(longest)].id
        print(f"{split:<8}{len(examples):>12,}{sum(lengths):>14,}{longest:>10,}{seconds:>10.2f}{rate:>12,.0f}  {where}")
        if task.max_tokens(protocol) is not None:
            notes.append(_left_out(task, protocol, split, examples, lengths, tokenizer))
    print(*notes, sep="\n", end="\n" if notes else "")


def _tokenizer(wanted: str | None, source: str, config: Config) -> Tokenizer:
    """The one asked for; tiny's for the sample world, as its demonstration; else that of the configuration's model."""
    if wanted:
        return load_tokenizer(wanted)
    if source == "sample":
        return load_tokenizer("tiny")
    model = config.model
    if model["tokenizer"]:
        return load_tokenizer(model["tokenizer"], model["tokenizer_revision"])
    path = Path(model["path"]).expanduser() if model["source"] == "folder" else model["path"]
    return load_tokenizer(path, model["revision"])


def _known(task: str) -> str:
    if task not in names("task"):
        raise UserError(f"there is no task {task!r}: {nearest(task, names('task'))}")
    return task


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune data",
        description="fetch: download the published data of tasks. show: print examples as the model sees them. "
        "ssm-tune data fetch --help and ssm-tune data show --help say more.",
    )
    parser.add_argument("action", choices=ACTIONS)
    return parser


def _fetch_parser() -> Parser:
    parser = Parser(
        prog="ssm-tune data fetch",
        description="Download the published data of tasks from the hub, check hashes and counts, and print what was "
        "had; the data then need no network. Settings (task.revision=...) are taken as a run takes them.",
        epilog="example: ssm-tune data fetch glue_rte dart",
    )
    parser.add_argument("words", nargs="*", metavar="TASK|key=value", help="tasks, or all, and settings")
    return parser


def _show_parser() -> Parser:
    parser = Parser(
        prog="ssm-tune data show",
        description="Print examples as the model sees them, with visible blanks and line ends, and their tokens. "
        "Settings (task.instruction=..., model=...) are taken as a run takes them.",
        epilog="example: ssm-tune data show samsum --data sample --n 2",
    )
    parser.add_argument("words", nargs="*", metavar="TASK|key=value", help="a task, and settings")
    parser.add_argument("--n", type=int, help=f"how many examples (default: {SHOWN})")
    parser.add_argument("--split", help="(default: train; with --statistics all)")
    parser.add_argument("--data", choices=CHOICES["data.source"], help="(default: local with --data-path, else hub)")
    parser.add_argument(
        "--data-path", metavar="PATH", help="folder of the official files; of your own data's tasks a file or folder"
    )
    parser.add_argument(
        "--check", choices=CHOICES["data.check"][:2], help="off: accept other counts than the published ones"
    )
    parser.add_argument("--protocol", choices=CHOICES["protocol"][1:], help="(default: as a run on these data)")
    parser.add_argument(
        "--tokenizer", metavar="NAME_OR_PATH", help="(default: of the task's default model; sample: tiny)"
    )
    parser.add_argument("--statistics", action="store_true", help="a table of examples, tokens and speed instead")
    return parser
