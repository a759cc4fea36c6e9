"""Step-by-step decoding, padding and prefill give what the full forward gives."""

from __future__ import annotations

import torch
from helpers.small_models import small_model
from hypothesis import given, settings
from hypothesis import strategies as st


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_prefill_of_padded_rows_and_steps_equal_the_forward(lengths: list[int], seed: int) -> None:
    model = small_model(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(64, (len(lengths), 14), generator=generator)
    whole = model(tokens)
    ends = torch.tensor(lengths)
    logits, cache = model.prefill(tokens[:, : max(lengths)], ends)
    rows = torch.arange(len(lengths))
    for _ in range(4):
        assert torch.allclose(logits, whole[rows, ends - 1], atol=1e-12)
        logits = model.step(tokens[rows, ends], cache)
        ends = ends + 1


def test_right_padding_changes_nothing_before_it() -> None:
    model, tokens = small_model(), torch.randint(64, (2, 10))
    padded = torch.cat([tokens, torch.zeros(2, 5, dtype=torch.int64)], 1)
    assert torch.allclose(model(padded)[:, :10], model(tokens), atol=1e-5)


def test_cache_rows_can_be_repeated_dropped_and_reordered() -> None:
    model, tokens = small_model(torch.float64), torch.randint(64, (3, 6))
    _, cache = model.prefill(tokens)
    index = torch.tensor([2, 2, 0])
    cache.select(index)
    assert cache.rows == 3
    following = torch.tensor([5, 6, 7])
    whole = model(torch.cat([tokens[index], following.unsqueeze(1)], 1))[:, -1]
    assert torch.allclose(model.step(following, cache), whole, atol=1e-12)


def test_activations_keep_their_dtype_and_the_residual_stays_wide() -> None:
    model = small_model(torch.bfloat16)
    assert model.hidden(torch.zeros(1, 3, dtype=torch.int64)).dtype == torch.bfloat16
    assert model._stream(torch.zeros(1, 3, dtype=torch.int64))[0].dtype == torch.float32


def test_steps_between_two_caches_read_the_rows_they_go_on_from_and_leave_idle_ones_alone() -> None:
    model, tokens = small_model(torch.float64), torch.randint(64, (3, 6))
    _, cache = model.prefill(tokens)
    before, after = cache.blank(4), cache.blank(4)
    before.insert(torch.tensor([3, 0, 1]), cache, torch.arange(3))
    row_of = {3: 0, 0: 1, 1: 2}
    source, following = [1, 3, -1, 1], torch.tensor([5, 6, 7, 8])
    logits = model.step(following, before, torch.tensor(source), after)
    for row, come_from in enumerate(source):
        if come_from >= 0:
            whole = model(torch.cat([tokens[row_of[come_from]], following[row : row + 1]]).unsqueeze(0))[0, -1]
            assert torch.allclose(logits[row], whole, atol=1e-12)
    assert torch.equal(before.ssm[0][3], cache.ssm[0][0])  # what is read stays as it is
    again = model.step(torch.tensor([9, 9, 9, 9]), after, torch.tensor([1, 1, 1, 0]), before)
    read = torch.cat([tokens[0], following[1:2], torch.tensor([9])]).unsqueeze(0)
    assert torch.allclose(again[1], model(read)[0, -1], atol=1e-12)
