"""Drawn problems of decoding: a table of logits, prompts and settings."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

from helpers.toy_decoders import DTYPES, TableModel
from ssm_tune.generation.settings import DecodeSettings


@st.composite
def problems(draw: st.DrawFn) -> tuple[TableModel, list[list[int]], DecodeSettings]:
    vocab = draw(st.integers(2, 6) | st.integers(3, 60))
    eos_id = draw(st.integers(0, vocab - 1))
    boost, dtype = draw(st.sampled_from([-8, 0, 3, 6, 10])), draw(st.sampled_from(list(DTYPES.values())))
    levels = draw(st.sampled_from([1, 2, 5, 17]))
    model = TableModel(draw(st.integers(0, 10**6)), vocab, eos_id, boost, dtype, levels)
    prompt = st.lists(st.integers(0, vocab - 1), min_size=1, max_size=7)
    prompts = draw(st.lists(prompt, min_size=1, max_size=7))
    chosen = DecodeSettings(
        num_beams=draw(st.integers(1, 6)),
        min_length=draw(st.sampled_from([0, 5, 5, 9])),
        max_new_tokens=draw(st.integers(1, 14)),
        length_penalty=draw(st.sampled_from([1.0, 1.0, 0.0, 2.0, -1])),
        eos_id=eos_id,
        batch_size=draw(st.integers(1, 8)),
    )
    return model, prompts, chosen


def official_cases() -> list[dict]:
    """What ``tests/generation/make_beam_cases.py`` ran through the BeamSearchScorer of transformers 4.40.2."""
    return json.loads((Path(__file__).parent / "beam_search_4_40_2.json").read_text())
