"""ssm-tune bench generate: decoding on random weights of the real sizes, beside its floor and the official code."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssm_tune.commands.bench_step import random_model
from ssm_tune.utils.errors import UserError, first_line

READ_TOKENS, NEW_TOKENS = 150, 40
PROMPT_QUANTILES = (52, 81, 104, 120, 132, 146, 158, 169, 182, 196, 210, 226, 245, 268, 298, 334, 412, 1241)
REFERENCE_QUANTILES = (8, 16, 18, 19, 21, 23, 24, 25, 27, 29, 31, 33, 35, 37, 40, 45, 55, 104)
"""Of DialogSum's dialogues and summaries, in tokens of the GPT-NeoX tokenizer, evenly spaced from least to most."""
_ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """official: milliseconds an example, of the official code on an H200 (torch 2.11), one example at a time.
    examples: as many as fill the slots several times; lengths: DialogSum's in place of the same for all."""

    model: str
    beams: int
    examples: int
    official: float | None = None
    lengths: bool = False


CASES = (
    Case("mamba_130m", 5, 1024, 1600.0),
    Case("mamba_130m", 1, 2560),
    Case("mamba_1b4", 5, 1024, 2210.0),
    Case("mamba_1b4", 1, 2560),
    Case("mamba_1b4", 5, 819, lengths=True),
    Case("tiny", 5, 24),
    Case("tiny", 1, 24),
)
_ROW = "{:>10} {:>5} {:>8} {:>9} {:>5} {:>9} {:>9} {:>10} {:>8} {:>8} {:>8} {:>6} {:>8} {:>8}"
_TITLES = (
    "model beams examples lengths slots seconds ms/example tokens/s reading step,ms floor,ms share speedup peak,GB"
)


def heading(found: dict[str, Any]) -> str:
    """What was measured, and the table's titles."""
    return "\n".join([
        f"{found['device']}, torch {found['torch']}: {found['dtype']}, random weights, {found['copies']}",
        f"lengths: {READ_TOKENS}+{NEW_TOKENS}, prompt and new tokens of every example; DialogSum: its prompts', ended",
        "at its summaries' lengths. seconds: median of all examples' decoding, capturing included; reading: of it,",
        "seconds to read the prompts; step: the rest over the steps. floor: a step's states, read and written, and the",
        "weights, by the copies' rate; share: of the step. speedup: over the official code, one example at a time.",
        _ROW.format(*(title.replace(",", " ") for title in _TITLES.split())),
    ])  # fmt: skip


def line(row: dict[str, Any]) -> str:
    lengths = "DialogSum" if row["lengths"] else f"{READ_TOKENS}+{NEW_TOKENS}"
    what = (row["model"], row["beams"], row["examples"], lengths)
    if "failed" in row:
        return _ROW.format(*what, *["-"] * 10) + f"  {row['failed']}"

    def given(name: str, form: str, scale: float = 1.0) -> str:
        return "-" if row.get(name) is None else format(row[name] * scale, form)

    return _ROW.format(
        *what, row["slots"], f"{row['seconds']:.2f}", f"{row['milliseconds']:.2f}", f"{row['tokens_per_second']:,.0f}",
        f"{row['reading_seconds']:.2f}", f"{row['step_milliseconds']:.2f}", given("floor_milliseconds", ".2f"),
        given("share", ".0%"), given("speedup", ".0f"), given("peak_gb", ".1f"),
    ) + (f"  {row['said']}" if row["said"] else "")  # fmt: skip


def measured(case: Case, copy: float | None) -> dict[str, Any]:
    """A row of the table; one that cannot be measured says why, under ``failed``. copy: bytes a second."""
    row: dict[str, Any] = {"model": case.model, "beams": case.beams, "examples": case.examples, "lengths": case.lengths}
    try:
        row |= _measured(case)
    except (RuntimeError, UserError) as error:  # out of memory, above all
        return row | {"failed": first_line(error)}
    return row | summed_up(case, row, copy)


def summed_up(case: Case, row: dict[str, Any], copy: float | None) -> dict[str, Any]:
    """What a row's times say. copy: bytes read and written a second, if known."""
    found = {
        "milliseconds": 1e3 * row["seconds"] / case.examples,
        "tokens_per_second": row["tokens"] / row["seconds"],
        "step_milliseconds": 1e3 * (row["seconds"] - row["reading_seconds"]) / row["steps"],
    }
    if copy is not None:
        found["floor_milliseconds"] = 1e3 * row["step_bytes"] / copy
        found["share"] = found["floor_milliseconds"] / found["step_milliseconds"]
    if case.official is not None:
        found["speedup"] = case.official / found["milliseconds"]
    return found


def lengths_of(case: Case) -> list[tuple[int, int]]:
    """Prompt and new tokens of each example."""
    if not case.lengths:
        return [(READ_TOKENS, NEW_TOKENS)] * case.examples
    draw = random.Random(0)

    def one(quantiles: Sequence[int]) -> int:
        place = draw.random() * (len(quantiles) - 1)
        low, share = quantiles[int(place)], place % 1
        return round(low + share * (quantiles[int(place) + 1] - low))

    return [(one(PROMPT_QUANTILES), one(REFERENCE_QUANTILES)) for _ in range(case.examples)]


def _measured(case: Case) -> dict[str, Any]:
    import torch

    from ssm_tune.ops.cuda.memory import free_memory

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
    reading = [_decoded(model, prompts, [1] * len(prompts), case.beams)["seconds"] for _ in range(_ROUNDS)]
    rows = min(runs[0]["slots"], len(prompts)) * case.beams
    return runs[0] | {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "reading_seconds": statistics.median(reading),
        "step_bytes": 2 * rows * runs[0]["row_bytes"] + weights,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
    }


def _decoded(model: Any, prompts: list[list[int]], limits: list[int], beams: int) -> dict[str, Any]:
    """Decode all prompts, each to its limit: no sequence may end before."""
    import torch

    from ssm_tune.generation.continuous_batching import Continuous
    from ssm_tune.generation.generate import BATCH_SIZE, inference, longest_first
    from ssm_tune.generation.settings import DecodeSettings
    from ssm_tune.ops.cuda.graph import CudaCapture

    cuda = model.device.type == "cuda"
    settings = DecodeSettings(beams, min_length=10**6, max_new_tokens=max(limits), batch_size=None if cuda else 8)
    tokens = 0

    def count(numbers: list[int], outputs: list[list[int]]) -> None:
        nonlocal tokens
        tokens += sum(map(len, outputs))

    begun = time.perf_counter()
    with inference(model):
        capture = CudaCapture(model.device) if cuda else None
        continuous = Continuous(model, prompts, settings, count, lambda: None, capture, limits)
        continuous.run(longest_first(prompts, BATCH_SIZE))
    if cuda:
        torch.cuda.synchronize()
    assert tokens == sum(limits)
    return {"seconds": time.perf_counter() - begun, "tokens": tokens, "steps": continuous.steps,
            "slots": continuous.slots, "row_bytes": continuous.row_bytes,
            "said": f"not captured: {continuous.refused}" if continuous.refused else ""}  # fmt: skip
