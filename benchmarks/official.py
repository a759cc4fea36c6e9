"""The official code's times (official.yaml), which the benchmarks stand beside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


@dataclass(frozen=True)
class TrainStep:
    """A timed training step. length: tokens of a row; ms: milliseconds; peak_gb: peak memory, weights included."""

    model: str
    method: str
    batch_size: int
    length: int
    ms: float
    peak_gb: float


@cache
def _figures() -> dict[str, Any]:
    figures = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("official.yaml")))
    assert isinstance(figures, dict)
    return {str(name): value for name, value in figures.items()}


@cache
def train_steps() -> tuple[TrainStep, ...]:
    """All training steps that were timed."""
    return tuple(TrainStep(**row) for row in _figures()["train_step"])


def beam_search_ms(model: str, beams: int, new_tokens: int) -> float | None:
    """Milliseconds an example, in proportion to new tokens; None for a model or a number of beams not timed."""
    timed = _figures()["beam_search"]
    if model not in timed["ms"] or beams != timed["beams"]:
        return None
    return float(timed["ms"][model]) * new_tokens / int(timed["new_tokens"])
