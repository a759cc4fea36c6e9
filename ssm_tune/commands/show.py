"""ssm-tune show: one run in the terminal, with what it answered to which input."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ssm_tune.commands.arguments import Parser
from ssm_tune.commands.data_at_hand import DataAtHand
from ssm_tune.metrics.names import heading
from ssm_tune.records.record import read_record
from ssm_tune.records.repeat import command_or_reason
from ssm_tune.records.schema import Record
from ssm_tune.reporting.examples import ShownExample, examples_of, lowest_first
from ssm_tune.reporting.table_rows import word
from ssm_tune.utils.errors import UserError
from ssm_tune.utils.text import printable

INDENT = 12
"""Of texts, beside what they are."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the run and some of its examples; returns 0.

    Raises:
        UserError: there is no finished run, or its predictions are missing or damaged.
    """
    options = _parser().parse_args(argv)
    if options.examples < 0:
        raise UserError(f"--examples must be 0 or more, got {options.examples}")
    record = read_record(options.run)
    folder = options.run if options.run.is_dir() else options.run.parent
    if record["metrics"]["best"] is None:
        raise UserError(f"{folder}: the run {record['status']} before its first score, there is nothing to show")
    found = examples_of(folder, record, DataAtHand("--data-path", path=options.data_path)(record), options.last)
    chosen = (lowest_first(found) if options.wrong else list(found))[: options.examples]
    if options.json:
        head = {"run": record["cell"], "status": record["status"], "metrics": record["metrics"]}
        examples = [asdict(one) for one in chosen]
        print(
            json.dumps(
                {**head, "command": command_or_reason(record), "count": len(found), "examples": examples}, indent=2
            )
        )
    else:
        for line in _lines(record, found, chosen, options.last):
            print(printable(line))
    return 0


def _lines(record: Record, found: Sequence[ShownExample], chosen: Sequence[ShownExample], last: bool) -> Iterator[str]:
    run, base = record["cell"], record["metrics"]["frozen"]
    scored = record["metrics"]["last" if last else "best"]
    assert scored is not None
    options = "".join(f" {name}={word(value)}" for name, value in run["method_options"].items())
    yield f"{run['method']}{options}, {run['model']}, seed {run['seed']}"
    yield f"{run['task']} on {run['data']}, {record['splits']['report']} split, epoch {scored['epoch']}:"
    for name in record["headline"]:
        before = "" if base is None or name not in base["values"] else f"  (base model {_points(base['values'][name])})"
        if name in scored["report"]:
            yield f"  {heading(name):<22}{_points(scored['report'][name]):>8}{before}"
    for one in chosen:
        yield ""
        yield f"example {one.id}{f': {one.mark}' if one.mark else ''}"
        parts = [("input", one.input), *(("reference", text) for text in one.references)]
        for what, text in (*parts, ("output", one.output), ("base model", one.base)):
            if text is not None:
                yield from _text(what, text)
    yield ""
    marks = [one.right for one in found if one.right is not None]
    counted = f": {sum(marks)} right, {len(marks) - sum(marks)} wrong" if marks else ""
    yield f"{len(chosen)} of {len(found)} examples{counted}"
    yield f"to run it again: {command_or_reason(record)}"


def _text(what: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n") or [""]):
        yield f"  {what if not number else '':<{INDENT}}{line or ('(nothing)' if not text else '')}"


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _parser() -> Parser:
    parser = Parser(
        prog="ssm-tune show",
        description="Show a run: its scores, and of some examples the input, the references, what the tuned and the "
        "base model wrote, and whether it is right; then the command that runs it again. Inputs and references are "
        "read from the run's data, where these are on this machine.",
        epilog="example: ssm-tune show results/runs/samsum/sample-tiny-lora-... --examples 3 --wrong",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder, or its record.json")
    parser.add_argument("--examples", type=int, default=5, metavar="N", help="how many examples (default: 5)")
    parser.add_argument(
        "--wrong", action="store_true", help="only answers that are wrong; of texts the worst first, by their score"
    )
    parser.add_argument("--last", action="store_true", help="answers of the last epoch, not of the best one")
    parser.add_argument("--data-path", metavar="DIR", help="where local data lie now, if not where the run read them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
