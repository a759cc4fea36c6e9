"""The settings of decoding, with their checks: one definition for configurations and for ``ssm_tune.generate``."""

from __future__ import annotations

from dataclasses import dataclass

from ssm_tune.utils.errors import UserError

MOST_BEAMS = 1024
"""More is a mistake, and would exhaust the memory."""


@dataclass
class DecodeConfig:
    """How to decode. Defaults: the paper's. Raises UserError for a value that cannot work."""

    num_beams: int = 5
    """1: greedy decoding"""
    min_length: int = 5
    """no end of sequence before this many tokens, the prompt's included (as the official code counts)"""
    max_new_tokens: int = 1024
    length_penalty: float = 1.0
    """a hypothesis scores (sum of log-probabilities) / (generated tokens, the end included) ** length_penalty"""
    batch_size: int | None = None
    """examples decoded together, each with num_beams states; it changes speed and memory, not what is decoded. null: 64
    on a CPU; on a GPU the largest power of two whose states fit, up to 1,280 beams"""

    def __post_init__(self) -> None:
        if isinstance(self.num_beams, int) and self.num_beams > MOST_BEAMS:
            raise UserError(f"decode.num_beams must be at most {MOST_BEAMS}, got {self.num_beams}")
        for name, least in (("num_beams", 1), ("max_new_tokens", 1), ("min_length", 0)):
            require_whole(f"decode.{name}", getattr(self, name), least)
        if self.batch_size is not None:
            require_whole("decode.batch_size", self.batch_size, 1)
        penalty = self.length_penalty
        if not isinstance(penalty, int | float) or isinstance(penalty, bool) or not abs(penalty) <= 10:
            raise UserError(f"decode.length_penalty must be a number from -10 to 10, got {penalty!r}")


def require_whole(name: str, value: object, least: int) -> None:
    """Raise UserError unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}")
