"""ssm-tune search: try learning rates on the selection split, and write the best of each run into conf/tuned."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssm_tune.commands.arguments import Parser
from ssm_tune.config.groups import conf_dir, is_installed, model_label
from ssm_tune.config.tuned import TunedFile, merge, read_tuned, write_tuned
from ssm_tune.config.variants import variant
from ssm_tune.experiment.run_lock import file_lock
from ssm_tune.metrics.names import heading
from ssm_tune.records.trial import Trial
from ssm_tune.sweeps.run_sweep import run_sweep
from ssm_tune.sweeps.search import Group, Search, read_search
from ssm_tune.sweeps.search_choice import Candidate, Choice, candidates, choose, provenance, same_kind
from ssm_tune.sweeps.search_rounds import check_rounds, cuts, rounds, steps_of
from ssm_tune.sweeps.status import Results
from ssm_tune.training.distributed import world_size
from ssm_tune.utils.errors import UserError

COMPARED = ("steps", "batch_size", "examples")
"""What a tuned file says of every choice and methods of one task must share, beside the number of trials."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials that are missing and write what they choose; 0 if every trial has ended, a diverged one too.

    Raises UserError for what ``read_search`` and ``check_rounds`` find invalid, and for a tuned file that is not a
    search's.
    """
    options = _parser().parse_intermixed_args(argv)
    settings = [word if "=" in word or word.startswith("~") else f"search={word}" for word in options.settings]
    search = read_search(settings, options.extend, options.halving)
    check_rounds(search)
    path = _tuned_file(options.to, search)
    read_tuned(path)  # before the hours: a file that may not be written to is reported at once
    if options.dry_run:
        print("\n".join(_budget(search, path)))
        return 0
    if world_size() > 1:
        raise UserError("torchrun's processes train one run together: a search is started without it")
    outcomes, parts = [], list[Search]()
    for part in rounds(search, _trials):
        outcomes += run_sweep(part.sweep)
        parts.append(part)
    with file_lock(Path(search.configs[0].output_dir) / "trials" / path.name):  # parts of a search may end at once
        _write(search, parts, path)
    unfinished = any(outcome.status in ("held", "not run") for outcome in outcomes)
    return max([outcome.exit for outcome in outcomes if outcome.status != "diverged"] + [int(unfinished)])


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune search",
        description="Train with each learning rate of a grid, score the selection split (never the reported one), and "
        "write the best rate of every method and task into a file of conf/tuned, which runs take with tuned=NAME. "
        "A grid may extend itself beyond an edge (--extend), and options of methods may be tried with the rates "
        "(grid.rank=4,8). Every trial is kept under output_dir/trials; the same line again runs only what is missing. "
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
        help="the tuned file to write, whose other runs are kept (default, in a checkout: conf/tuned/NAME.yaml, as the "
        "search or the model is called)",
    )
    parser.add_argument(
        "--extend",
        type=int,
        metavar="N",
        help="while the best rate is the smallest or the largest tried, try the next beyond it, at most N for each "
        "method and task (default: the file's extend, else 0)",
    )
    parser.add_argument(
        "--halving",
        type=int,
        metavar="N",
        help="successive halving: try all for a part of train.max_steps, the best 1/N of them for N times as many, up "
        "to the full length (default: the file's halving, else every trial has full length)",
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
    if is_installed():
        raise UserError(f"where is the tuned file to go? name it, as with --to tuned/{name}.yaml")
    return conf_dir() / "tuned" / f"{name}.yaml"


def _budget(search: Search, path: Path) -> list[str]:
    """What the search costs, a line a task and method."""
    lines = []
    for group, numbers in search.groups.items():
        train = search.configs[numbers[0]].train
        seeds = len({search.configs[number].seed for number in numbers})
        tried = dict.fromkeys(_tried(search, number) for number in numbers)
        steps = f"{train.max_steps} steps" if train.max_steps else f"{train.epochs} epochs"
        if search.halving:
            parts = [f"{count} of {steps_of(search, numbers[0], part)}" for count, part in cuts(search)]
            steps = f"halving by {search.halving}, {', then '.join(parts)} steps"
        else:
            steps += " each"
        further = f", and up to {search.extend} rates beyond an edge" if search.extend else ""
        lines.append(f"{search.label(group)}: {', '.join(tried)}{further}; {steps}{f'; {seeds} seeds' * (seeds > 1)}")
    there = sum(trial is not None for trial in _trials(search))
    return [*lines, f"{_most(search)} trials for {path}, {there} of them done already"]


def _most(search: Search) -> str:
    """How many trials there are at most."""
    if search.halving:
        first = cuts(search)[0][0]
        return str(sum(count for count, _ in cuts(search)) * len(search.configs) // first)
    seeds = len({config.seed for config in search.configs})
    further = search.extend * seeds * len(search.groups)
    return f"{len(search.configs)}" + (f" to {len(search.configs) + further}" if further else "")


def _tried(search: Search, number: int) -> str:
    config, searched = search.configs[number], search.sweep.runs[number].searched
    return " ".join([f"{config.train.learning_rate:g}", *(f"{name}={config.method[name]}" for name in searched)])


def _trials(search: Search) -> list[Trial | None]:
    """Of each trial what it left, if it was run."""
    results = {folder: Results(folder, trials=True) for folder in {one.output_dir for one in search.configs}}
    return [results[one.output_dir].state(one).record for one in search.configs]


def _write(search: Search, parts: Sequence[Search], path: Path) -> None:
    """Merge the choices of the runs whose trials are all there into the file, and say them. parts: what each round ran;
    of halved candidates those of the last are chosen among, else all."""
    tuned, written = read_tuned(path), 0
    spent = _by_group(parts)
    chosen = _by_group(parts[-1:]) if search.halving else spent
    for group, asked in search.groups.items():
        name = search.label(group)
        if missing := sum(trial is None for trial in spent[group]):
            print(f"{name}: {missing} of {len(spent[group])} trials missing, nothing chosen", file=sys.stderr)
            continue
        every = [trial for trial in spent[group] if trial is not None]
        same_kind(name, every)
        choice = choose(
            candidates([trial for trial in chosen.get(group, []) if trial is not None], search.searched(asked))
        )
        if choice is None:
            print(f"{name}: every trial diverged, nothing chosen: try smaller rates", file=sys.stderr)
            continue
        dtype = every[0]["backend"]["adapter_dtype"]
        if tuned.adapter_dtype not in (None, dtype):
            raise UserError(
                f"{path} holds rates of {tuned.adapter_dtype} adapters, these are of {dtype}: name a file with --to"
            )
        tuned.adapter_dtype = dtype
        _merge(tuned, search, group, choice, every)
        written += 1
        print(_said(name, choice, every))
        if unlike := _unlike(tuned.trials[group.model][group.task], group.method):
            print(
                f"note: on {group.task} the file has other budgets for {', '.join(unlike)}: do not compare",
                file=sys.stderr,
            )
    if not written:
        return
    write_tuned(path, tuned)
    folder = path.resolve().parent
    use = f"tuned={path.stem}"
    if folder != (conf_dir() / "tuned").resolve():
        use = f"{use} once it lies in {conf_dir() / 'tuned'}"
        if folder.name == "tuned":
            use += f"; a single run also with tuned={path.stem} 'hydra.searchpath=[file://{folder.parent}]'"
    print(f"{written} learning rate{'s' * (written != 1)} written: {path}; runs take them with {use}")


def _by_group(searches: Sequence[Search]) -> dict[Group, list[Trial | None]]:
    """What the trials of all these searches left, each trial once."""
    found: dict[Group, list[Trial | None]] = {}
    for search in searches:
        trials = _trials(search)
        for group, numbers in search.groups.items():
            found.setdefault(group, []).extend(trials[number] for number in numbers)
    return found


def _merge(tuned: TunedFile, search: Search, group: Group, choice: Choice, every: Sequence[Trial]) -> None:
    """Put a choice into the file: the rate of the method with the options that were chosen with it, and these."""
    budget: dict[str, Any] = {"grid": len(search.groups[group])}
    budget |= {"extend": search.extend} if search.extend else {}
    budget |= {"halving": search.halving} if search.halving else {}
    trial = choice.best.trials[0]
    method = variant({**trial["config"]["method"]}) if choice.best.options else group.method
    merge(tuned.rates, (group.model, group.task, method), choice.rate)
    if choice.best.options:
        merge(tuned.options, group, choice.best.options)
    merge(tuned.trials, group, provenance(choice, every, budget))


def _unlike(methods: dict[str, Any], method: str) -> list[str]:
    """Methods of one task in the file whose rates were found with another budget than this one's."""

    def budget(origin: dict[str, Any]) -> tuple[Any, ...]:
        grid = origin.get("grid", len(origin["tried"]))
        seeds = origin.get("seeds", [origin.get("seed")])
        return (grid, seeds, origin.get("extend"), origin.get("halving"), *(origin[key] for key in COMPARED))

    return [name for name in sorted(methods) if budget(methods[name]) != budget(methods[method])]


def _said(name: str, choice: Choice, every: Sequence[Trial]) -> str:
    trial = every[0]
    best = choice.best.score
    tied = sum(one.score == best for one in choice.tried)
    edge = "; the best is at the grid's edge: a wider one may hold a better" if choice.edge else ""
    if tied > 1:
        edge = f"; {tied} rates tie, and that with the lowest training loss is taken"
    where = f"{heading(trial['primary_metric'])} on {trial['examples']} examples of {trial['splits']['selection']}"
    seconds = sum(one["seconds"]["total"] for one in every)
    scores = ", ".join(f"{_in_words(one)}: {_points(one.score)}" for one in choice.tried)
    return f"{name}: {_in_words(choice.best)} ({where}: {scores}){edge}; {len(every)} trials, {seconds:.0f} s"


def _in_words(one: Candidate) -> str:
    return " ".join([f"{one.rate:g}", *(f"{name}={value}" for name, value in one.options.items())])


def _points(score: float | None) -> str:
    return "diverged" if score is None else f"{100 * score:.2f}"
