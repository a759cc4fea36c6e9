"""ssm-tune plan --paper: hours of the paper's whole grid, on random weights of the real sizes and without its data,
beside the official code's hours."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from typing import Any

from ssm_tune.commands.bench_step import CASES, SIZES, random_model
from ssm_tune.config.groups import method_section, names
from ssm_tune.config.tuned import OFFICIAL_BATCH_SIZE
from ssm_tune.utils.errors import UserError

MEASURED, PART, STAND_IN, ASSUMED = "measured", "measured on a part", "measured on a stand-in", "assumed"


@dataclass(frozen=True)
class Size:
    """A task's published size, and lengths in tokens of the GPT-NeoX tokenizer with our instructions.

    train: tokens of the longest of four random examples on average, and of the longest at all. prompt: an evaluation
    prompt's mean and the longest. answer: a target's mean tokens, 0 where one position is read off. source: of lengths.
    """

    model: str
    examples: int
    evaluated: int
    epochs: int
    train: tuple[int, int]
    prompt: tuple[int, int]
    answer: int
    source: str


TASKS = {
    "glue_cola": Size("mamba_130m", 8_551, 1_043, 10, (32, 63), (28, 51), 0, MEASURED),
    "glue_mnli": Size("mamba_130m", 392_702, 19_647, 3, (90, 500), (67, 300), 0, ASSUMED),
    "glue_mrpc": Size("mamba_130m", 3_668, 408, 10, (87, 123), (73, 104), 0, MEASURED),
    "glue_qnli": Size("mamba_130m", 104_743, 5_463, 10, (97, 297), (76, 297), 0, f"{PART}: dev, train taken to be so"),
    "glue_qqp": Size("mamba_130m", 363_846, 40_430, 3, (65, 350), (52, 300), 0, ASSUMED),
    "glue_rte": Size("mamba_130m", 2_490, 277, 10, (141, 312), (92, 273), 0, MEASURED),
    "glue_sst2": Size("mamba_130m", 67_349, 872, 10, (51, 93), (52, 87), 0, MEASURED),
    "dart": Size("mamba_130m", 62_659, 2_768, 10, (111, 262), (52, 164), 29, f"{PART}: dev, train taken to be so"),
    "samsum": Size("mamba_1b4", 14_732, 819, 10, (345, 1344), (198, 1241), 31, f"{STAND_IN}: DialogSum"),
    "spider": Size("mamba_1b4", 7_000, 1_034, 10, (483, 775), (254, 672), 35, f"{PART}: dev, train taken to be so"),
}
HALVED = ("initial_state", "mamba_1b4")
"""The official configs' exception to batches of four: two examples."""
BEAM_SEARCH = {"mamba_130m": 1600.0, "mamba_1b4": 2210.0}
"""The official code's milliseconds for an example of 40 new tokens and 5 beams on an H200."""
FILLED = """\
our hours: steps and evaluations timed here on random weights, bfloat16 on a GPU; every batch as long as the mean
batch, answers as long as the targets; one evaluation an epoch. Not counted: the frozen model's evaluation, scoring,
loading, compilation.
official: its steps, timed singly on an H200 with no trainer around them (ssm-tune bench step has the table). Where
they were not measured they are filled in: (a) another length of the same model and method: the nearest measured one's
time; (b) another model: the time at mamba-130m times state_offset's at mamba-1.4b (length 256) over its at mamba-130m
(length 64); (c) bitfit, prefix and prompt, which have no official configuration: state_offset_y's, the least of all;
(d) a forward pass of one GLUE prompt: a third of a step; (e) beam search: 1,600 and 2,210 ms for 40 new tokens, in
proportion."""
_ROW = "{:<10} {:<15} {:>9} {:>8} {:>9} {:>9} {:>8} {:>11} {:>10} {:>8} {:>7}"
_TITLES = (
    "task",
    "method",
    "steps",
    "ms/step",
    "train h",
    "eval h",
    "hours",
    "official,ms",
    "official h",
    "filled",
    "ratio",
)


def paper(options: argparse.Namespace) -> int:
    """Print the grid; 0, or UserError where a cell does not fit."""
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        print("note: no CUDA device: everything is timed on this CPU, in float32, which takes long", file=sys.stderr)
    tasks, methods = options.task or list(TASKS), options.method or names("method")
    table = sys.stderr if options.json else sys.stdout
    print(_ROW.format(*_TITLES), file=table, flush=True)
    rows: list[dict[str, Any]] = []
    for model in SIZES:
        chosen = [task for task in TASKS if task in tasks and TASKS[task].model == model]
        for method in methods if chosen else ():
            for row in _measured(model, method, chosen, cuda and options.cuda_graphs == "auto"):
                rows.append(row)
                print(line(row), file=table, flush=True)
    lengths = "; ".join(f"{task} {TASKS[task].source}" for task in TASKS if task in tasks)
    device = torch.cuda.get_device_name() if cuda else "CPU"
    print("\n".join([*totals(rows), FILLED, f"lengths: {lengths}"]), file=table, flush=True)
    if options.json:
        print(json.dumps({"device": device, "torch": torch.__version__, "assumed": FILLED, "rows": rows}, indent=1))
    if bad := [row for row in rows if "failed" in row]:
        raise UserError(f"{len(bad)} of {len(rows)} cells do not fit; {bad[0]['task']} {bad[0]['method']}: "
                        f"{bad[0]['failed']}")  # fmt: skip
    return 0


def work_of(size: Size, method: str, buckets: bool, cuda: bool) -> Any:
    """A task's work as far as it is known without its data: the mean batch many times, the longest once."""
    import numpy as np

    from ssm_tune.data.collator import bucket
    from ssm_tune.generation.generate import BATCH_SIZE
    from ssm_tune.generation.predict import MOST_PROMPTS, MOST_TOKENS
    from ssm_tune.planning.workload import BEAMS, Batches, Evaluation, Workload

    batch = _batch(size, method)
    labels = batch * max(1, size.answer)
    steps = size.epochs * math.ceil(size.examples / batch)
    extents = [bucket(length, labels) if buckets else (length, labels) for length in size.train]
    training = Batches(np.array([(batch, *extent) for extent in extents]), np.array([steps - 1, 1]))
    if size.answer:
        rows = BEAMS // 5 if cuda else BATCH_SIZE
    else:
        rows = min(MOST_PROMPTS, MOST_TOKENS // size.prompt[0]) if cuda else BATCH_SIZE
    rows = min(rows, size.evaluated)
    batches = Batches(
        np.array([(rows, length, size.answer) for length in size.prompt]),
        np.array([max(1, round(size.evaluated / rows)) - 1, 1]),
    )
    evaluation = Evaluation("selection", "val", size.epochs, size.evaluated, size.answer * size.evaluated, batches)
    tokens = int(training.padded)
    return Workload("generate" if size.answer else "classify", steps, tokens, training, (evaluation,))


def official(size: Size, method: str) -> dict[str, Any]:
    """The official code's milliseconds a step, its hours, and the letters (FILLED) of what was filled in."""
    filled = ""
    source = method
    if not any(case.method == method for case in CASES):
        source, filled = "state_offset_y", "c"
    measured = _timed(size.model, source)
    scale = 1.0
    if not measured:
        at = {(case.model, case.length): case.official[0] for case in CASES if case.method == "state_offset"}
        scale, filled = at["mamba_1b4", 256] / at["mamba_130m", 64], filled + "b"
        measured = _timed("mamba_130m", source)
    nearest = min(measured, key=lambda length: abs(length - size.train[0]))
    if nearest != size.train[0]:
        filled += "a"
    step = scale * measured[nearest]
    batch = _batch(size, method)
    example = BEAM_SEARCH[size.model] * size.answer / 40 if size.answer else step / 3
    train = size.epochs * math.ceil(size.examples / batch) * step / 3.6e6
    evaluate = size.epochs * size.evaluated * example / 3.6e6
    letters = "".join(sorted(filled + ("e" if size.answer else "d")))
    return {"official_step_ms": step, "official_train_hours": train, "official_evaluate_hours": evaluate,
            "official_hours": train + evaluate, "filled": letters}  # fmt: skip


def _batch(size: Size, method: str) -> int:
    return 2 if (method, size.model) == HALVED else OFFICIAL_BATCH_SIZE


def _timed(model: str, method: str) -> dict[int, float]:
    """The official code's milliseconds a step, by length."""
    return {case.length: case.official[0] for case in CASES if (case.model, case.method) == (model, method)}


def _measured(model_name: str, method_name: str, tasks: list[str], capture: bool) -> list[dict[str, Any]]:
    """The rows of one model and method, which share what was timed of equal shapes."""
    import torch

    from ssm_tune.generation.settings import DecodeSettings
    from ssm_tune.methods.base import attach, load_method
    from ssm_tune.ops.cuda.graph import CudaCapture
    from ssm_tune.ops.cuda.memory import free_memory
    from ssm_tune.planning.estimate import hours
    from ssm_tune.planning.profiling import DoesNotFit, Measured, measure

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
        size = TASKS[task]
        work = work_of(size, method_name, capture, cuda)
        row: dict[str, Any] = {"task": task, "model": model_name, "method": method_name, "steps": work.steps}
        row |= official(size, method_name)
        if known.prefills and (work.mode == "generate") != any(known.tokens.values()):
            known = Measured(steps=known.steps)  # the other kind of evaluation
        try:
            known = measure(adapter, work, DecodeSettings(), lambda: CudaCapture(device) if capture else None, known)
        except DoesNotFit as failure:
            row["failed"] = (
                f"out of memory in {failure.phase}: {failure.rows} x {failure.length} tokens at a time do not fit; "
                f"{failure.fits} would"
            )
        else:
            found = hours(work, known)
            row |= {"train_hours": found["train"], "evaluate_hours": found["evaluate"], "hours": found["total"],
                    "step_ms": 3.6e6 * found["train"] / work.steps, "said": known.said}  # fmt: skip
        rows.append(row)
    return rows


def line(row: dict[str, Any]) -> str:
    what = (row["task"], row["method"], f"{row['steps']:,}")
    theirs = (f"{row['official_step_ms']:.1f}", f"{row['official_hours']:.1f}", row["filled"])
    if "failed" in row:
        return _ROW.format(*what, *["-"] * 4, *theirs, "-") + f"  {row['failed']}"
    ours = (f"{row['step_ms']:.2f}", *(f"{row[name]:.3f}" for name in ("train_hours", "evaluate_hours", "hours")))
    ratio = f"{row['official_hours'] / row['hours']:.1f}"
    return _ROW.format(*what, *ours, *theirs, ratio) + (f"  {row['said']}" if row["said"] else "")


def totals(rows: list[dict[str, Any]]) -> list[str]:
    """Sums over all that was timed, and over the methods that have an official configuration."""
    found = []
    for what, kept in (("all", [*rows]), ("published methods", [row for row in rows if "c" not in row["filled"]])):
        timed = [row for row in kept if "hours" in row]
        ours, theirs = (sum(row[name] for row in timed) for name in ("hours", "official_hours"))
        if timed:
            found.append(f"{what}: {len(timed)} cells, {ours:.2f} hours by us, {theirs:.1f} by the official code "
                         f"({theirs / ours:.1f} times)")  # fmt: skip
    return found
