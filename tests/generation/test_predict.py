"""Batches of prompts that are read off."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.generation.predict import shortest_first


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 9), st.none() | st.integers(1, 200))
def test_batches_hold_every_prompt_once_and_keep_their_bounds(
    lengths: list[int], size: int, tokens: int | None
) -> None:  # fmt: skip
    batches = shortest_first(lengths, size, tokens)
    order = [at for batch in batches for at in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[at] for at in order] == sorted(lengths)
    for batch, following in zip(batches, [*batches[1:], []], strict=False):
        padded = len(batch) * max(lengths[at] for at in batch)
        assert len(batch) == 1 or (len(batch) <= size and (tokens is None or padded <= tokens))
        if following:  # no batch could have been larger
            more = len(batch) + 1
            assert more > size or (tokens is not None and more * lengths[following[0]] > tokens)
