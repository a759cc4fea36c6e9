"""Which prompts are computed together."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.generation.batches import batch_shapes, length_batches, next_token_batches, prompt_batches
from ssm_tune.generation.settings import DecodeSettings


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 9), st.none() | st.integers(1, 200))
def test_batches_hold_every_prompt_once_and_keep_their_bounds(
    lengths: list[int], size: int, tokens: int | None
) -> None:
    batches = length_batches(lengths, size, tokens)
    order = [at for batch in batches for at in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[at] for at in order] == sorted(lengths, reverse=True)
    for batch, following in zip(batches, [*batches[1:], []], strict=False):
        padded = len(batch) * max(lengths[at] for at in batch)
        assert len(batch) == 1 or (len(batch) <= size and (tokens is None or padded <= tokens))
        if following:  # no batch could have been larger
            more = len(batch) + 1
            assert more > size or (tokens is not None and more * lengths[batch[0]] > tokens)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 20)), min_size=1, max_size=90),
    st.none() | st.integers(1, 9),
    st.sampled_from(["classify", "generate"]),
    st.booleans(),
)
def test_shapes_are_those_of_the_batches_of_runs(
    examples: list[tuple[int, int]], size: int | None, mode: Literal["classify", "generate"], cuda: bool
) -> None:
    prompts, new = ([pair[part] for pair in examples] for part in (0, 1))
    shapes = batch_shapes(mode, prompts, new, DecodeSettings(batch_size=size), cuda)
    assert sum(rows for rows, _, _ in shapes) == len(prompts)
    assert shapes[0][1] == max(prompts)
    if mode == "classify":
        run = next_token_batches(prompts, size, cuda)
    else:
        run = prompt_batches(prompts, size, cuda)
    if mode == "classify" or not cuda:
        assert [(rows, length) for rows, length, _ in shapes] == [
            (len(batch), max(prompts[at] for at in batch)) for batch in run
        ]
    assert sum(steps for _, _, steps in shapes) == 0 if mode == "classify" else max(new) >= shapes[0][2] > 0
