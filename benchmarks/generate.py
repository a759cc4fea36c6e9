"""Decoding on random weights of the real sizes, beside the least time that memory allows and the official code's."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import torch

from benchmarks.device_limits import copy_rate
from benchmarks.models import random_model
from benchmarks.official import beam_search_ms
from benchmarks.table import Row, Table
from ssm_tune.generation.batches import prompt_batches
from ssm_tune.generation.continuous_batching import ContinuousBatching
from ssm_tune.generation.generate import inference
from ssm_tune.generation.settings import DecodeSettings
from ssm_tune.models.mamba import Mamba
from ssm_tune.ops.cuda.graph import CudaCapture
from ssm_tune.ops.cuda.memory import free_memory
from ssm_tune.utils.errors import UserError, first_line

PROMPT_TOKENS, NEW_TOKENS = 150, 40
PROMPT_QUANTILES = (52, 81, 104, 120, 132, 146, 158, 169, 182, 196, 210, 226, 245, 268, 298, 334, 412, 1241)
REFERENCE_QUANTILES = (8, 16, 18, 19, 21, 23, 24, 25, 27, 29, 31, 33, 35, 37, 40, 45, 55, 104)
"""Of DialogSum's dialogues and summaries, in tokens of the GPT-NeoX tokenizer, evenly spaced from least to most."""
_ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """examples: as many as fill the places of the batch several times; lengths: DialogSum's, not the same for all."""

    model: str
    beams: int
    examples: int
    lengths: bool = False

    @property
    def official_ms(self) -> float | None:
        """Milliseconds an example, of the official code, one example at a time."""
        return None if self.lengths else beam_search_ms(self.model, self.beams, NEW_TOKENS)


CASES = (
    Case("mamba_130m", 5, 1024),
    Case("mamba_130m", 1, 2560),
    Case("mamba_1b4", 5, 1024),
    Case("mamba_1b4", 1, 2560),
    Case("mamba_1b4", 5, 819, lengths=True),
    Case("mamba2_130m", 5, 1024),
    Case("mamba2_1b3", 5, 1024),
    Case("tiny", 5, 24),
    Case("tiny", 1, 24),
)
ON_GPU = ("mamba_130m", "mamba_1b4")
"""The models timed where none is named."""
TABLE = Table(
    {
        "model": 11,
        "beams": 5,
        "examples": 8,
        "lengths": 9,
        "places": 6,
        "seconds": 9,
        "ms/example": 10,
        "tokens/s": 10,
        "prefill": 8,
        "step ms": 8,
        "floor ms": 8,
        "share": 6,
        "speedup": 8,
        "peak GB": 8,
    }
)


def run(models: Sequence[str], file: TextIO) -> dict[str, Any]:
    """Time decoding with the models, on the GPU where there is one, printing a line for each case; returns what the
    JSON output holds."""
    cuda = torch.cuda.is_available()
    copy = copy_rate() if cuda else None
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "dtype": "bfloat16" if cuda else "float32",
        "copies": f"copies {copy / 1e12:.2f} TB/s" if copy else "launched singly",
        "copy_bytes_per_second": copy,
    }

    def rows() -> Iterator[Row]:
        for case in CASES:
            if case.model in (models or ON_GPU):
                yield measured(case, copy)

    return found | {"rows": TABLE.print(about(found), rows(), line, file)}


def about(found: dict[str, Any]) -> str:
    """What was measured, and what the columns hold."""
    return f"""\
{found["device"]}, torch {found["torch"]}: {found["dtype"]}, random weights, {found["copies"]}
lengths: {PROMPT_TOKENS}+{NEW_TOKENS}, prompt and new tokens of every example; DialogSum: its prompts', ended
at its summaries' lengths. seconds: median of all examples' decoding, capturing included; prefill: of it,
seconds to read the prompts; step: the rest over the steps. floor: a step's states, read and written, and the
weights, by the copies' rate; share: of the step. speedup: over the official code, one example at a time."""


def line(row: Row) -> str:
    cells = {
        "model": row["model"],
        "beams": str(row["beams"]),
        "examples": str(row["examples"]),
        "lengths": "DialogSum" if row["lengths"] else f"{PROMPT_TOKENS}+{NEW_TOKENS}",
    }
    if "failed" in row:
        return TABLE.line(cells, row["failed"])
    cells |= {
        "places": str(row["places"]),
        "seconds": f"{row['seconds']:.2f}",
        "ms/example": f"{row['milliseconds']:.2f}",
        "tokens/s": f"{row['tokens_per_second']:,.0f}",
        "prefill": f"{row['prefill_seconds']:.2f}",
        "step ms": f"{row['step_milliseconds']:.2f}",
    }
    optional = {"floor ms": ("floor_milliseconds", ".2f"), "share": ("share", ".0%"), "speedup": ("speedup", ".0f")}
    for title, (name, form) in (optional | {"peak GB": ("peak_gb", ".1f")}).items():
        if row.get(name) is not None:
            cells[title] = format(row[name], form)
    return TABLE.line(cells, row["note"])


def measured(case: Case, copy: float | None) -> Row:
    """A row of the table; one that cannot be measured says why, under ``failed``. copy: bytes a second."""
    row: Row = {"model": case.model, "beams": case.beams, "examples": case.examples, "lengths": case.lengths}
    try:
        row |= _measured(case)
    except (RuntimeError, UserError) as error:  # out of memory, above all
        return row | {"failed": first_line(error)}
    return row | summed_up(case, row, copy)


def summed_up(case: Case, row: Row, copy: float | None) -> Row:
    """What a row's times say. copy: bytes read and written a second, if known."""
    found = {
        "milliseconds": 1e3 * row["seconds"] / case.examples,
        "tokens_per_second": row["tokens"] / row["seconds"],
        "step_milliseconds": 1e3 * (row["seconds"] - row["prefill_seconds"]) / row["steps"],
    }
    if copy is not None:
        found["floor_milliseconds"] = 1e3 * row["step_bytes"] / copy
        found["share"] = found["floor_milliseconds"] / found["step_milliseconds"]
    if case.official_ms is not None:
        found["speedup"] = case.official_ms / found["milliseconds"]
    return found


def lengths_of(case: Case) -> list[tuple[int, int]]:
    """Prompt and new tokens of each example."""
    if not case.lengths:
        return [(PROMPT_TOKENS, NEW_TOKENS)] * case.examples
    draw = random.Random(0)

    def one(quantiles: Sequence[int]) -> int:
        place = draw.random() * (len(quantiles) - 1)
        low, share = quantiles[int(place)], place % 1
        return round(low + share * (quantiles[int(place) + 1] - low))

    return [(one(PROMPT_QUANTILES), one(REFERENCE_QUANTILES)) for _ in range(case.examples)]


def _measured(case: Case) -> Row:
    free_memory()
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    model = random_model(case.model, torch.device(device), dtype)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    draw = random.Random(0)
    lengths = lengths_of(case)
    prompts = [draw.choices(range(1, model.config.vocab_size), k=prompt) for prompt, _ in lengths]
    limits = [new for _, new in lengths]
    _decoded(model, prompts, limits, case.beams)  # compiles
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    runs = [_decoded(model, prompts, limits, case.beams) for _ in range(_ROUNDS)]
    prefills = [_decoded(model, prompts, [1] * len(prompts), case.beams)["seconds"] for _ in range(_ROUNDS)]
    rows = min(runs[0]["places"], len(prompts)) * case.beams
    return runs[0] | {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "prefill_seconds": statistics.median(prefills),
        "step_bytes": 2 * rows * runs[0]["row_bytes"] + weights,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
    }


def _decoded(model: Mamba, prompts: list[list[int]], limits: list[int], beams: int) -> Row:
    """Decode all prompts, each to its limit: no sequence may end before."""
    cuda = model.device.type == "cuda"
    settings = DecodeSettings(beams, min_length=10**6, max_new_tokens=max(limits), batch_size=None if cuda else 8)
    tokens = 0

    def count(numbers: list[int], outputs: list[list[int]]) -> None:
        nonlocal tokens
        tokens += sum(map(len, outputs))

    begun = time.perf_counter()
    with inference(model):
        capture = CudaCapture(model.device) if cuda else None
        batching = ContinuousBatching(model, prompts, settings, count, lambda: None, capture, limits)
        batching.run(prompt_batches([len(prompt) for prompt in prompts], None, cuda))
    if cuda:
        torch.cuda.synchronize()
    assert tokens == sum(limits)
    return {
        "seconds": time.perf_counter() - begun,
        "tokens": tokens,
        "steps": batching.steps,
        "places": batching.places,
        "row_bytes": batching.row_bytes,
        "note": f"not captured: {batching.not_captured}" if batching.not_captured else "",
    }
