"""ssm-tune status: what became of the runs of a sweep, or of every run folder there is."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssm_tune.commands.arguments import Parser
from ssm_tune.records import where
from ssm_tune.sweeps.status import STATUSES, Results, State
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import printable

OPEN = ("running", "stale", "stopped", "failed", "missing")
"""Statuses of runs that still take time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the states; 0 if every run has its record, 1 if one has not. Raises UserError as ``-m`` does."""
    options = _parser().parse_args(argv)
    folder = None if options.results is None else where.one_folder(options.results, "status")
    if options.sweep:
        rows, shown = _asked(options.sweep, folder)
    else:
        rows = Results(folder or where.OWN).folders()
        shown = [label for label, _ in rows]
    if not rows:
        place = where.nothing_in(options.results or where.OWN)
        raise UserError(f"no run {place}: name a sweep, or --results DIR")
    if options.format == "json":
        print(json.dumps(_summary(rows) | {"cells": [_plain(*row) for row in rows]}, indent=2))
    else:
        print("\n".join(_lines(rows, shown, options.all)))
    return int(any(state.status not in ("done", "diverged") for _, state in rows))


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune status",
        description="Say what became of each run: done, diverged, running (where, since when), stale (its process is "
        "gone), stopped (saved, goes on), failed (why) or missing; the hours spent and an estimate of the rest. "
        "Exit status 0 if every run has its record, 1 if not.",
    )
    parser.add_argument(
        "sweep",
        nargs="*",
        metavar="SWEEP",
        help="a sweep's name (conf/sweep/NAME.yaml) and settings, or settings as behind -m: "
        "tiny seed=42; default: every run folder under results/runs",
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        help=f"the results folder; {where.SHIPPED}: that which comes with ssm-tune (default: output_dir's, results)",
    )
    parser.add_argument(
        "--format", choices=("terminal", "json"), default="terminal", help="how to print (default: terminal)"
    )
    parser.add_argument("--all", action="store_true", help="list the runs that are done, too")
    return parser


def _asked(words: Sequence[str], folder: Path | None) -> tuple[list[tuple[str, State]], list[str]]:
    """The states of the runs that -m would run, and what tells these apart."""
    from ssm_tune.config.compose import Composer
    from ssm_tune.config.overrides import on_command_line
    from ssm_tune.records.run_id import label_of, labels_of
    from ssm_tune.sweeps.sweep_file import read_sweep

    settings = [word if "=" in word else f"+sweep={word}" for word in words]
    if folder:
        settings.append(f"output_dir={on_command_line(str(folder))}")
    composer, results, rows = Composer(), dict[str, Results](), list[tuple[str, State]]()
    runs = read_sweep(settings).runs
    for run in runs:
        try:
            config = composer.config(run.overrides)
        except UserError as error:
            raise UserError(f"{run.origin}: {error}" if run.origin else str(error)) from error
        if config.output_dir not in results:
            results[config.output_dir] = Results(config.output_dir)
        rows.append((label_of(run.overrides), results[config.output_dir].state(config)))
    return rows, labels_of([run.overrides for run in runs])


def _summary(rows: Sequence[tuple[str, State]]) -> dict[str, Any]:
    """Counts by status, hours spent, and hours that the rest may take, one run at a time."""
    counts = {status: sum(state.status == status for _, state in rows) for status in STATUSES}
    by_task: dict[str, list[float]] = {}
    for _, state in rows:
        if state.record is not None:
            by_task.setdefault(state.record["cell"]["task"], []).append(state.seconds)
    known = [seconds for values in by_task.values() for seconds in values]
    left = None
    if known:
        mean = statistics.mean(known)
        left = 0.0
        for label, state in rows:
            if state.status in OPEN:
                task = next((task for task in by_task if f"task={task} " in f"{label} " or f"{task}/" in label), None)
                left += statistics.mean(by_task[task]) if task else mean
    return {
        "counts": counts,
        "hours_spent": round(sum(state.seconds for _, state in rows) / 3600, 3),
        "hours_left": None if left is None else round(left / 3600, 3),
    }


def _plain(label: str, state: State) -> dict[str, Any]:
    folder = None if state.folder is None else str(state.folder)
    return {"cell": label, "status": state.status, "detail": state.detail, "seconds": state.seconds, "folder": folder}


def _lines(rows: Sequence[tuple[str, State]], shown: Sequence[str], every: bool) -> list[str]:
    """The runs that are not done, grouped by status, and the counts last."""
    lines = []
    for status in STATUSES:
        for label, (_, state) in zip(shown, rows, strict=True):
            if state.status == status and (every or status != "done"):
                lines.append(f"{status:<9} {printable(label)}")
                lines += [f"    {printable(state.detail[:200])}"] if state.detail else []
    summary = _summary(rows)
    counts = ", ".join(f"{count} {status}" for status, count in summary["counts"].items() if count)
    left = summary["hours_left"]
    estimate = (
        ""
        if not any(state.status in OPEN for _, state in rows) or left is None
        else f", about {left:.2f} h of one process at a time for the rest"
    )
    lines.append(f"{len(rows)} run{'s' * (len(rows) != 1)}: {counts}; {summary['hours_spent']:.2f} h spent{estimate}")
    return lines
