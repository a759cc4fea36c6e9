"""Tokens, the one label shift, padding, and the order of an epoch, against the protocol's facts."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ssm_tune.data.collator import batch_extent, collate, epoch_batches, epoch_order, length_bucket
from ssm_tune.data.tokenization import TokenizedExample, tokenize_prompts, tokenize_training
from ssm_tune.models.tokenizer import load_tokenizer
from ssm_tune.ops.cross_entropy import IGNORE
from ssm_tune.tasks.base import END, Example, load_task

TASK = load_task({"_target_": "ssm_tune.tasks.samsum.SAMSum", "name": "samsum", "hub": "none", "revision": None})


def test_epoch_order_is_the_official_permutation() -> None:
    # ten items, seed 42: as transformers 4.40.2 with accelerate 0.29.3 ordered them
    assert epoch_order(10, 42, 0) == [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]
    assert epoch_order(10, 42, 1) == epoch_order(10, 43, 0)


def test_an_epochs_batches_take_its_order_and_drop_an_incomplete_one() -> None:
    order = epoch_order(10, 42, 0)
    assert epoch_batches(10, 4, 42, 0) == [order[:4], order[4:8]]
    assert epoch_batches(10, 5, 42, 0) == [order[:5], order[5:]]
    assert epoch_batches(3, 4, 42, 0) == []


SIZES = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=5)


@given(SIZES, st.integers(0, 9), st.integers(0, 9))
def test_labels_are_the_last_tokens_shifted_once(sizes: list[tuple[int, int]], longer: int, more: int) -> None:
    sequences = [TokenizedExample(list(range(10, 10 + prompt + labels)), labels) for prompt, labels in sizes]
    longest, found = batch_extent(sequences)
    batch = collate(sequences, 0, longest + longer, found + more)
    assert batch.input_ids.shape == (len(sizes), longest + longer)
    assert batch.positions.shape == batch.targets.shape == (found + more,)
    wanted = []
    for row, (prompt, labels) in enumerate(sizes):
        length, tokens = prompt + labels - 1, sequences[row].tokens
        assert batch.input_ids[row].tolist() == tokens[:-1] + [0] * (longest + longer - length)
        wanted += [(row * (longest + longer) + at, tokens[at + 1]) for at in range(prompt - 1, length)]
    wanted += [(0, IGNORE)] * more
    assert list(zip(batch.positions.tolist(), batch.targets.tolist(), strict=True)) == wanted


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_buckets_are_few_and_little_longer(longest: int, labels: int) -> None:
    length, room = length_bucket(longest, labels)
    assert longest <= length <= max(1.25 * longest, longest + 15)
    assert labels <= room < 2 * labels
    assert length_bucket(length, room) == (length, room)
    assert len({length_bucket(n, 1)[0] for n in range(1, 1025)}) == 20


def test_samsums_sequence_in_the_real_tokenizer(shared: Path) -> None:
    """Dialogue, then ### as text (4118), then the summary and the end token (0), which alone carry the loss."""
    tokenizer = load_tokenizer(str(shared / "data" / "tokenizer"))
    example = Example("1", "Amanda: I baked cookies.\r\nJerry: Sure!###", "Amanda baked cookies.", ("x",))
    (encoded,) = tokenize_training([example], TASK, tokenizer)
    summary = tokenizer.encode("Amanda baked cookies.")
    assert encoded.tokens == [*tokenizer.encode("Amanda: I baked cookies.\r\nJerry: Sure!"), 4118, *summary, 0]
    assert encoded.labels == len(summary) + 1


def test_a_prefix_is_encoded_apart() -> None:
    tokenizer = load_tokenizer("tiny")
    example = Example("1", "b###", "c", ("c",), prefix="ab")
    assert tokenize_prompts([example], tokenizer) == [tokenizer.encode("ab") + tokenizer.encode("b###")]
    assert TASK.completion(example) == "c" + END
    empty = Example("2", "###", "c", ("c",))  # SAMSum's empty dialogue
    assert tokenize_prompts([empty], tokenizer) == [tokenizer.encode("###")]
    assert len(tokenizer.encode("###")) == 1
