"""ssm-tune plan: what runs will cost in steps, tokens, hours and memory, before anything runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssm_tune.commands.arguments import Parser
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import printable

if TYPE_CHECKING:
    from ssm_tune.planning.estimate import Planned

ASSUMED = (
    "hours are an estimate: the largest batches and a typical one were timed, the others follow from a straight line "
    "by padded tokens; predictions are assumed to be as long as their targets; scoring, checkpoints and compilation "
    "are not counted"
)
_ROW = "{:<{width}}  {:>9} {:>14} {:>11} {:>9} {:>9} {:>9} {:>8}"
_TITLES = ("steps", "tokens", "longest", "ms/step", "train h", "eval h", "peak GB")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; 0 if every run fits. Raises UserError as a run would, and where a run does not fit."""
    if "--paper" in (sys.argv[1:] if argv is None else argv):
        raise UserError("the paper's grid is a benchmark now: python -m benchmarks.paper_grid, from a checkout")
    options = _parser().parse_args(argv)
    if not options.settings:
        raise UserError("plan needs a run or a sweep: ssm-tune plan method=lora task=samsum, or ssm-tune plan main")
    from ssm_tune.sweeps.search import read_search
    from ssm_tune.sweeps.sweep_file import read_sweep

    settings = [word if "=" in word else f"+sweep={word}" for word in options.settings]
    searched = any(word.startswith("search=") for word in settings)
    sweep = read_search(settings).sweep if searched else read_sweep(settings)
    from ssm_tune.planning.estimate import Planner  # torch: not before the settings are known to be good

    planned = Planner().plan(sweep.runs, lambda line: print(line, file=sys.stderr, flush=True))
    if options.json:
        print(json.dumps({"assumed": ASSUMED, "cells": [one.plain() for one in planned]}, indent=1))
    else:
        lines = _details(planned[0]) if len(planned) == 1 else _table(planned)
        print("\n".join(map(printable, lines)), flush=True)
    bad = [one for one in planned if one.status in ("does not fit", "failed")]
    if bad:
        more = f" ({len(bad)} of {len(planned)} runs)" if len(planned) > 1 else ""
        raise UserError(f"{bad[0].run}: {bad[0].detail}{more}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune plan",
        description="Before anything runs: optimizer steps, tokens, evaluations, hours and memory of a run or of all "
        "runs of a sweep, from a few steps and batches timed here, the largest first, so that what does not fit into "
        "memory shows at once. Runs that are done cost nothing; nothing is trained or recorded. "
        "Exit status 2 if a run does not fit, with what would.",
        epilog="examples: ssm-tune plan method=state_offset task=samsum; ssm-tune plan +sweep=main; ssm-tune plan "
        "search=leaderboard (the trials of a search's grid)",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="SWEEP_OR_SETTING",
        help="settings of a run or of many as behind -m, or a sweep's name",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _details(one: Planned) -> list[str]:
    """One run in detail."""
    if one.workload is None:
        return [f"{one.run}: {one.status}{', nothing to do' if one.status in ('done', 'diverged') else ''}"]
    found = one.plain()
    longest = found["longest_batch"]
    lines = [
        one.run,
        f"  training    {found['steps']:,} steps, {found['tokens']:,} tokens ({found['padded_tokens']:,} with "
        f"padding), longest batch {longest['rows']} x {longest['length']}",
    ]
    for row in found["evaluations"]:
        new = f", {row['new_tokens'] / row['prompts']:.1f} new tokens each" if row["new_tokens"] else ""
        at = row["longest_batch"]
        lines.append(
            f"  evaluation  {row['times']} x {row['split']} ({row['what']}): {row['prompts']:,} prompts{new}, longest "
            f"batch {at['rows']} x {at['length']}"
        )
    if one.hours is None:
        return [*lines, f"  {one.status}: {one.detail}"]
    times = "; ".join(f"{row['rows']} x {row['length']}: {row['ms']:.2f} ms" for row in found["milliseconds"]["step"])
    hours, note = one.hours, f" ({found['note']})" if found["note"] else ""
    lines += [
        f"  a step      {times}{note}",
        f"  hours       {hours['total']:.3f}: train {hours['train']:.3f}, evaluate {hours['evaluate']:.3f}, "
        f"load {hours['load']:.3f}",
        f"  peak memory, GB: {_gb(found)}",
    ]
    return [*lines, ASSUMED]


def _table(planned: Sequence[Planned]) -> list[str]:
    """A line for each run, and the sum."""
    width = max(len(one.run) for one in planned)
    lines = [_ROW.format("run", *_TITLES, width=width)]
    total = 0.0
    for one in planned:
        if one.workload is None or one.measured is None or one.hours is None:
            detail = f": {one.detail}" if one.detail else ""
            lines.append(f"{one.run:<{width}}  {one.status}{detail}")
            continue
        found, hours = one.plain(), one.hours
        longest = found["longest_batch"]
        step = 3.6e6 * hours["train"] / found["steps"]
        total += hours["total"]
        row = (
            f"{found['steps']:,}",
            f"{found['tokens']:,}",
            f"{longest['rows']} x {longest['length']}",
            f"{step:.2f}",
            f"{hours['train']:.3f}",
            f"{hours['evaluate']:.3f}",
            _gb(found),
        )
        lines.append(_ROW.format(one.run, *row, width=width))
    counts: dict[str, int] = {}
    for one in planned:
        counts[one.status] = counts.get(one.status, 0) + 1
    statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
    return [*lines, f"{len(planned)} runs: {statuses}; {total:.2f} hours for one process at a time", ASSUMED]


def _gb(found: dict[str, Any]) -> str:
    peak = found["peak_memory_bytes"]
    return "-" if peak is None else f"{peak / 1e9:.2f}"
