"""``python -m benchmarks.paper_grid``: hours of the paper's whole grid, on random weights of the real sizes and without
its data, beside the official code's hours."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks.models import SIZES, random_model
from benchmarks.official import beam_search_ms, train_steps
from benchmarks.run import exit_status
from benchmarks.table import Row, Table
from ssm_tune.config.groups import benchmarks, conf_dir, method_section, names
from ssm_tune.config.tuned import OFFICIAL_BATCH_SIZE
from ssm_tune.config.variants import of_cell
from ssm_tune.data.collator import length_bucket
from ssm_tune.generation.batches import MOST_PROMPTS, MOST_TOKENS, PROMPTS_TOGETHER, examples_together
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.methods.adapter import attach
from ssm_tune.methods.base import load_method
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.planning.estimate import MS_PER_HOUR, hours
from ssm_tune.planning.profiling import DoesNotFit, Measured, measure
from ssm_tune.planning.workload import Batches, Evaluation, Workload
from ssm_tune.utils.errors import UserError

MEASURED, PART, STAND_IN, ASSUMED = "measured", "measured on a part", "measured on a stand-in", "assumed"


@dataclass(frozen=True)
class Size:
    """A task's published size, and lengths in tokens of the GPT-NeoX tokenizer with our instructions.

    train: tokens of the longest of four random examples on average, and of the longest at all. prompt: an evaluation
    prompt's mean and the longest. target: a target's mean tokens, 0 where one position is read off. source: of lengths.
    """

    model: str
    examples: int
    evaluated: int
    epochs: int
    train: tuple[int, int]
    prompt: tuple[int, int]
    target: int
    source: str


_DEV_ONLY = f"{PART}: dev, train assumed alike"
TASKS = {
    "glue_cola": Size("mamba_130m", 8_551, 1_043, 10, (32, 63), (28, 51), 0, MEASURED),
    "glue_mnli": Size("mamba_130m", 392_702, 19_647, 3, (90, 500), (67, 300), 0, ASSUMED),
    "glue_mrpc": Size("mamba_130m", 3_668, 408, 10, (87, 123), (73, 104), 0, MEASURED),
    "glue_qnli": Size("mamba_130m", 104_743, 5_463, 10, (97, 297), (76, 297), 0, _DEV_ONLY),
    "glue_qqp": Size("mamba_130m", 363_846, 40_430, 3, (65, 350), (52, 300), 0, ASSUMED),
    "glue_rte": Size("mamba_130m", 2_490, 277, 10, (141, 312), (92, 273), 0, MEASURED),
    "glue_sst2": Size("mamba_130m", 67_349, 872, 10, (51, 93), (52, 87), 0, MEASURED),
    "dart": Size("mamba_130m", 62_659, 2_768, 10, (111, 262), (52, 164), 29, _DEV_ONLY),
    "samsum": Size("mamba_1b4", 14_732, 819, 10, (345, 1344), (198, 1241), 31, f"{STAND_IN}: DialogSum"),
    "spider": Size("mamba_1b4", 7_000, 1_034, 10, (483, 775), (254, 672), 35, _DEV_ONLY),
}
TUNED = "acl2025"
"""The file of conf/tuned with the official configurations' batch sizes."""
FILLED = """\
our hours: steps and evaluations timed here on random weights, bfloat16 on a GPU; every batch as long as the mean
batch, predictions as long as the targets; one evaluation an epoch. Not counted: the base model's evaluation, scoring,
loading, compilation.
official: its steps, timed singly on an H200 with no trainer around them (benchmarks/official.yaml). Where they were
not measured they are filled in: (a) another length of the same model and method: the nearest measured one's time;
(b) another model: the time at mamba-130m times state_offset's at mamba-1.4b (length 256) over its at mamba-130m
(length 64); (c) bitfit, prefix and prompt, which have no official configuration: state_offset_y's, the least of all;
(d) a forward pass of one GLUE prompt: a third of a step; (e) beam search: 1,600 and 2,210 ms for 40 new tokens, in
proportion."""
TABLE = Table(
    {
        "task": 10,
        "method": 15,
        "steps": 9,
        "ms/step": 8,
        "train h": 9,
        "eval h": 9,
        "hours": 8,
        "official ms": 11,
        "official h": 10,
        "filled": 8,
        "ratio": 7,
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the grid; returns 0.

    Raises:
        UserError: a cell of the grid does not fit into memory; the others are printed.
    """
    options = _parser().parse_args(argv)
    cuda = torch.cuda.is_available()
    if not cuda:
        print("note: no CUDA device: everything is timed on this CPU, in float32, which takes long", file=sys.stderr)
    tasks, methods = options.task or list(TASKS), options.method or names("method")
    table = sys.stdout if options.format == "text" else sys.stderr
    rows = TABLE.print("", _rows(tasks, methods, cuda and options.cuda_graphs == "auto"), line, table)
    lengths = "; ".join(f"{task} {TASKS[task].source}" for task in TASKS if task in tasks)
    device = torch.cuda.get_device_name() if cuda else "CPU"
    print("\n".join([*totals(rows), FILLED, f"lengths: {lengths}"]), file=table, flush=True)
    if options.format == "json":
        print(json.dumps({"device": device, "torch": torch.__version__, "assumed": FILLED, "rows": rows}, indent=1))
    if bad := [row for row in rows if "failed" in row]:
        first = bad[0]
        raise UserError(
            f"{len(bad)} of {len(rows)} runs do not fit; {first['task']} {first['method']}: {first['failed']}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper_grid",
        description="Hours of the paper's ten tasks with every method, timed on random weights of the real sizes and "
        "without the data, beside the official code's hours.",
    )
    parser.add_argument(
        "--task", action="append", choices=benchmarks(), metavar="NAME", help="only this task (may be repeated)"
    )
    parser.add_argument(
        "--method", action="append", choices=names("method"), metavar="NAME", help="only this method (may be repeated)"
    )
    parser.add_argument("--cuda-graphs", choices=["auto", "off"], default="auto", help="as train.cuda_graphs")
    parser.add_argument(
        "--format",
        choices=["text", "json"],
        default="text",
        help="text: the table; json: one object on stdout, the table on stderr",
    )
    return parser


def _rows(tasks: Sequence[str], methods: Sequence[str], graphs: bool) -> Iterator[Row]:
    for model in SIZES:
        chosen = [task for task in TASKS if task in tasks and TASKS[task].model == model]
        for method in methods if chosen else ():
            yield from _measured(model, method, chosen, graphs)


def work_of(task: str, method: str, buckets: bool, cuda: bool) -> Workload:
    """A task's work as far as it is known without its data: the mean batch many times, the longest once."""
    size, batch = TASKS[task], batch_size(task, method)
    labels = batch * max(1, size.target)
    steps = size.epochs * math.ceil(size.examples / batch)
    extents = [length_bucket(length, labels) if buckets else (length, labels) for length in size.train]
    training = Batches(np.array([(batch, *extent) for extent in extents]), np.array([steps - 1, 1]))
    if size.target:
        rows = examples_together(5) if cuda else PROMPTS_TOGETHER
    else:
        rows = min(MOST_PROMPTS, MOST_TOKENS // size.prompt[0]) if cuda else PROMPTS_TOGETHER
    rows = min(rows, size.evaluated)
    batches = Batches(
        np.array([(rows, length, size.target) for length in size.prompt]),
        np.array([max(1, round(size.evaluated / rows)) - 1, 1]),
    )
    evaluation = Evaluation("selection", "val", size.epochs, size.evaluated, size.target * size.evaluated, batches)
    tokens = int(training.padded)
    return Workload("generate" if size.target else "classify", steps, tokens, training, (evaluation,))


def official(task: str, method: str) -> Row:
    """The official code's milliseconds a step, its hours, and the letters (FILLED) of what was filled in."""
    size, filled, source = TASKS[task], "", method
    if not any(step.method == method for step in train_steps()):
        source, filled = "state_offset_y", "c"
    timed = _timed(size.model, source)
    scale = 1.0
    if not timed:
        scale = _timed("mamba_1b4", "state_offset")[256] / _timed("mamba_130m", "state_offset")[64]
        filled += "b"
        timed = _timed("mamba_130m", source)
    nearest = min(timed, key=lambda length: abs(length - size.train[0]))
    if nearest != size.train[0]:
        filled += "a"
    step = scale * timed[nearest]
    example = (beam_search_ms(size.model, 5, size.target) if size.target else None) or step / 3
    train = size.epochs * math.ceil(size.examples / batch_size(task, method)) * step / MS_PER_HOUR
    evaluate = size.epochs * size.evaluated * example / MS_PER_HOUR
    return {
        "official_step_ms": step,
        "official_train_hours": train,
        "official_evaluate_hours": evaluate,
        "official_hours": train + evaluate,
        "filled": "".join(sorted(filled + ("e" if size.target else "d"))),
    }


def batch_size(task: str, method: str) -> int:
    """Examples of a batch in the official configuration."""
    return of_cell(_batch_sizes(), TASKS[task].model, task, method_section(method)) or OFFICIAL_BATCH_SIZE


@cache
def _batch_sizes() -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.load(conf_dir() / "tuned" / f"{TUNED}.yaml"))
    assert isinstance(found, dict)
    sizes: dict[str, Any] = found["batch_size"]
    return sizes


def _timed(model: str, method: str) -> dict[int, float]:
    """The official code's milliseconds a step, by length."""
    return {step.length: step.ms for step in train_steps() if (step.model, step.method) == (model, method)}


def _measured(model_name: str, method_name: str, tasks: list[str], graphs: bool) -> list[Row]:
    """The rows of one model and method, which share what was timed of equal shapes."""
    free_memory()
    cuda = torch.cuda.is_available()
    device, dtype = (torch.device("cuda"), torch.bfloat16) if cuda else (torch.device("cpu"), torch.float32)
    method = load_method(method_section(method_name))
    # as a run does it: bfloat16 adapters go with the paper's rates
    adapter = attach(
        random_model(model_name, device, dtype), method, dtype=dtype if method.published else torch.float32
    )
    known, rows = Measured(), []
    for task in tasks:
        work = work_of(task, method_name, graphs, cuda)
        row: Row = {"task": task, "model": model_name, "method": method_name, "steps": work.steps}
        row |= official(task, method_name)
        if known.prefills and (work.mode == "generate") != any(known.tokens.values()):
            known = Measured(steps=known.steps)  # the other kind of evaluation
        try:
            known = measure(adapter, work, DecodeSettings(), lambda: CudaCapture(device) if graphs else None, known)
        except DoesNotFit as failure:
            row["failed"] = (
                f"out of memory in {failure.phase}: {failure.rows} x {failure.length} tokens at a time do not fit; "
                f"{failure.fits} would"
            )
        else:
            found = hours(work, known)
            row |= {
                "train_hours": found["train"],
                "evaluate_hours": found["evaluate"],
                "hours": found["total"],
                "step_ms": MS_PER_HOUR * found["train"] / work.steps,
                "note": known.note,
            }
        rows.append(row)
    return rows


def line(row: Row) -> str:
    cells = {
        "task": row["task"],
        "method": row["method"],
        "steps": f"{row['steps']:,}",
        "official ms": f"{row['official_step_ms']:.1f}",
        "official h": f"{row['official_hours']:.1f}",
        "filled": row["filled"],
    }
    if "failed" in row:
        return TABLE.line(cells, row["failed"])
    cells |= {
        "ms/step": f"{row['step_ms']:.2f}",
        "train h": f"{row['train_hours']:.3f}",
        "eval h": f"{row['evaluate_hours']:.3f}",
        "hours": f"{row['hours']:.3f}",
        "ratio": f"{row['official_hours'] / row['hours']:.1f}",
    }
    return TABLE.line(cells, row["note"])


def totals(rows: list[Row]) -> list[str]:
    """Sums over all that was timed, and over the methods that have an official configuration."""
    found = []
    for what, kept in (("all", rows), ("published methods", [row for row in rows if "c" not in row["filled"]])):
        timed = [row for row in kept if "hours" in row]
        ours, theirs = (sum(row[name] for row in timed) for name in ("hours", "official_hours"))
        if timed:
            found.append(
                f"{what}: {len(timed)} runs, {ours:.2f} hours by us, {theirs:.1f} by the official code "
                f"({theirs / ours:.1f} times)"
            )
    return found


if __name__ == "__main__":
    sys.exit(exit_status(main))
