"""ssm-tune search: try learning rates on the selection split, and write the best of each run into conf/tuned."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssm_tune.config.groups import conf_dir, model_label, names
from ssm_tune.config.tuned import merge, read_tuned, write_tuned
from ssm_tune.experiment.run_lock import file_lock
from ssm_tune.metrics.names import heading
from ssm_tune.records.trial import Trial
from ssm_tune.sweeps.lr_search import Choice, Search, choose, provenance, rate_of, read_search, same_kind, score_of
from ssm_tune.sweeps.run_sweep import run_sweep
from ssm_tune.sweeps.status import Results
from ssm_tune.training.distributed import world_size
from ssm_tune.utils.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials that are missing and write what they choose; 0 if every trial has ended, a diverged one too.

    Raises UserError for what ``read_search`` finds invalid, and for a tuned file that is not a search's.
    """
    options = _parser().parse_intermixed_args(argv)
    settings = [word if "=" in word or word.startswith("~") else f"search={word}" for word in options.settings]
    search = read_search(settings)
    path = _tuned_file(options.to, search)
    read_tuned(path)  # before the hours: a file that may not be written to is reported at once
    if options.dry_run:
        print("\n".join(_budget(search, path)))
        return 0
    if world_size() > 1:
        raise UserError("torchrun's processes train one run together: a search is started without it")
    outcomes = run_sweep(search.sweep)
    with file_lock(Path(search.configs[0].output_dir) / "trials" / path.name):  # parts of a search may end at once
        _write(search, path)
    unfinished = any(outcome.status in ("held", "not run") for outcome in outcomes)
    return max([outcome.exit for outcome in outcomes if outcome.status != "diverged"] + [int(unfinished)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssm-tune search",
        description="Train with each learning rate of a grid, score the selection split (never the reported one), and "
        "write the best rate of every method and task into a file of conf/tuned, which runs take with tuned=NAME. "
        "Every trial is kept under output_dir/trials; the same line again runs only what is missing. "
        "hydra/launcher=local runs trials in parallel. Exit status 0 if every trial has ended.",
        epilog="examples: ssm-tune search mamba_25m model.path=DIR data.root=DIR; ssm-tune search method=lora,bitfit "
        "task=glue_rte model=tiny data=sample train.max_steps=100 grid.learning_rate=1e-3,3e-3,1e-2",
    )
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="SEARCH_OR_SETTING",
        help="a file's name (conf/search/NAME.yaml) and settings that narrow or change it, or settings "
        "as behind -m with grid.learning_rate=A,B,C",
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="the tuned file to write (default: conf/tuned/NAME.yaml, as the search or the model is "
        "called); its other runs are kept",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and run nothing")
    return parser


def _tuned_file(to: Path | None, search: Search) -> Path:
    if to is not None:
        if to.suffix != ".yaml":
            raise UserError(f"--to {to}: the file's name must end in .yaml")
        return to
    name = search.tuned
    if name is None:
        name = model_label(search.configs[0].model)
    return conf_dir() / "tuned" / f"{name}.yaml"


def _budget(search: Search, path: Path) -> list[str]:
    """What the search costs, a line a task and method."""
    lines = []
    for (task, method), numbers in search.groups().items():
        train = search.configs[numbers[0]].train
        rates = ", ".join(f"{search.configs[number].train.learning_rate:g}" for number in numbers)
        steps = f"{train.max_steps} steps" if train.max_steps else f"{train.epochs} epochs"
        lines.append(f"{task} {method}: {rates}; {steps} each")
    there = sum(trial is not None for trial in _trials(search))
    return [*lines, f"{len(search.configs)} trials for {path}, {there} of them done already"]


def _trials(search: Search) -> list[Trial | None]:
    """Of each trial what it left, if it was run."""
    results = {folder: Results(folder, trials=True) for folder in {one.output_dir for one in search.configs}}
    return [results[one.output_dir].state(one).record for one in search.configs]


def _write(search: Search, path: Path) -> None:
    """Merge the choices of the runs whose trials are all there into the file, and say them."""
    rates, about, adapter_dtype = read_tuned(path)
    known, written = _trials(search), 0
    for (task, method), numbers in search.groups().items():
        trials = [trial for number in numbers if (trial := known[number]) is not None]
        if missing := len(numbers) - len(trials):
            print(f"{task} {method}: {missing} of {len(numbers)} trials missing, nothing chosen", file=sys.stderr)
            continue
        same_kind(method, task, trials)
        choice = choose(trials)
        if choice is None:
            print(f"{task} {method}: every trial diverged, nothing chosen: try smaller rates", file=sys.stderr)
            continue
        dtype = trials[0]["backend"]["adapter_dtype"]
        if adapter_dtype not in (None, dtype):
            raise UserError(
                f"{path} holds rates of {adapter_dtype} adapters, these are of {dtype}: name a file with --to"
            )
        run, adapter_dtype = (trials[0]["cell"]["model"], task, method), dtype
        merge(rates, run, choice.rate)
        merge(about, run, provenance(choice))
        written += 1
        print(_said(task, method, choice))
        if unlike := _unlike(about[run[0]][task], method):
            print(
                f"note: on {task} the file has other budgets for {', '.join(unlike)}: do not compare", file=sys.stderr
            )
    if adapter_dtype is None or not written:
        return
    write_tuned(path, rates, about, adapter_dtype)
    use = (
        f"tuned={path.stem}" if path.stem in names("tuned") else f"a file of {conf_dir() / 'tuned'}, once it lies there"
    )
    print(f"{written} learning rate{'s' * (written != 1)} written: {path}; runs take them with {use}")


def _unlike(methods: dict[str, Any], method: str) -> list[str]:
    """Methods of one task in the file whose rates were found with another budget than this one's."""

    def budget(origin: dict[str, Any]) -> tuple[Any, ...]:
        return (len(origin["tried"]), *(origin[key] for key in ("steps", "batch_size", "examples", "seed")))

    return [name for name in sorted(methods) if budget(methods[name]) != budget(methods[method])]


def _said(task: str, method: str, choice: Choice) -> str:
    trial = choice.trials[0]
    scores = []
    for one in choice.trials:
        score = score_of(one)
        scores.append(f"{rate_of(one):g}: {'diverged' if score is None else format(100 * score, '.2f')}")
    best = max(score for one in choice.trials if (score := score_of(one)) is not None)
    tied = sum(score_of(one) == best for one in choice.trials)
    edge = "; the best is at the grid's edge: a wider one may hold a better" if choice.edge else ""
    if tied > 1:
        edge = f"; {tied} rates tie, and that with the lowest training loss is taken"
    where = f"{heading(trial['primary_metric'])} on {trial['examples']} examples of {trial['splits']['selection']}"
    return f"{task} {method}: {choice.rate:g} ({where}: {', '.join(scores)}){edge}"
