"""How to decode: the settings of a run (``decode`` in the configuration) and the token that ends a sequence."""

from __future__ import annotations

from dataclasses import dataclass

from ssm_tune.config.decoding import DecodeConfig, require_whole


@dataclass
class DecodeSettings(DecodeConfig):
    """``DecodeConfig`` for one tokenizer. Raises UserError for a value that cannot work."""

    eos_id: int = 0
    """The token that ends a sequence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("decode.eos_id", self.eos_id, 0)
