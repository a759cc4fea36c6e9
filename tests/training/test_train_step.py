"""The step on padded batches against the plain loss, and blocks of steps against single ones; captures need a GPU."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import math
from collections.abc import Iterator

import pytest
import torch
from helpers.small_models import Silent, small_model
from helpers.training_runs import METHODS, SEQUENCES, Uncaptured, started
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_tune.data.collator import Batch, batch_extent, collate, length_bucket
from ssm_tune.data.tokenization import TokenizedExample
from ssm_tune.training.graphed_step import GraphedTrainStep
from ssm_tune.training.train_step import TrainStep, label_loss
from ssm_tune.training.trainer import Trainer
from ssm_tune.utils.errors import Diverged


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_new_shape_that_does_not_fit_beside_the_graphs_runs_without_them(
    micro_batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, training = started(), started(capture=Uncaptured(), micro_batch=micro_batch)
    assert training.graphs is not None
    graphs, work, refused = training.graphs, training.step.backward, []

    def without_room(batch: Batch) -> None:
        work(batch)
        if graphs.captured and batch.shape not in graphs.captured:  # its gradients are there already
            refused.append(batch.shape)
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(training.step, "backward", without_room)
    for one in (plain, training):
        one.fit(lambda epoch, step: None, Silent())
    assert refused
    for ours, theirs in zip(training.result.steps, plain.result.steps, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 41), min_size=1, max_size=4))
def test_the_loss_is_that_over_all_logits_whatever_the_padding(rows: list[int]) -> None:
    model, sequences = small_model(torch.float64), [SEQUENCES[row] for row in rows]
    losses = []
    for sequence in sequences:
        logits = model(torch.tensor([sequence.tokens]))[0, -1 - sequence.labels : -1]
        targets = torch.tensor(sequence.tokens[-sequence.labels :])
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    oracle = sum(losses) / sum(sequence.labels for sequence in sequences)
    for extents in ((), length_bucket(*batch_extent(sequences)), (77, 50)):
        assert torch.allclose(label_loss(model, collate(sequences, 0, *extents)), oracle, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_the_same_whatever_the_padding(name: str) -> None:
    training = started(name)
    training.adapter.model.train()
    found = []
    for extents in (batch_extent(SEQUENCES[:4]), length_bucket(*batch_extent(SEQUENCES[:4]))):
        training.step.compute_gradients([collate(SEQUENCES[:4], 0, *extents, keys=[3, 1, 4, 5])])
        found.append([parameter.grad for parameter in training.step.parameters])
    for plain, padded in zip(*found, strict=True):
        assert plain is not None
        assert torch.allclose(plain, padded, atol=1e-6)


def blockwise(training: Trainer, block: int) -> tuple[list[int], list[int]]:
    """Train with reads every ``block`` steps; the steps of which rows came, and those of the evaluations."""
    training.read_every = block
    rows: list[int] = []
    evaluated: list[int] = []
    training.fit(
        lambda epoch, step: evaluated.append(step), Silent(),
        lambda read: rows.extend(int(row["step"]) for row in read),
    )  # fmt: skip
    return rows, evaluated


@pytest.mark.parametrize("block", [2, 7, 16])
def test_blocks_leave_the_same_as_single_steps(block: int) -> None:
    ends = []
    for size in (1, block):
        training = started("lora")
        assert blockwise(training, size) == (list(range(1, 23)), [11, 22])
        ends.append(training)
    assert ends[0].result.steps == ends[1].result.steps
    assert ends[0].position == ends[1].position
    for name, value in ends[0].tensors().items():
        assert torch.equal(value, ends[1].tensors()[name]), name


def test_a_block_is_what_a_checkpoint_holds() -> None:
    whole = started("lora")
    blockwise(whole, 5)
    cut = started("lora")
    cut.read_every = 5
    cut.adapter.model.train()
    for _ in range(4):
        rows = cut.train_steps()
    assert [row["step"] for row in rows] == [4, 5, 6, 7, 8]
    progress, kept = cut.state(), {name: value.clone() for name, value in cut.tensors().items()}
    rest = started("lora")
    rest.load(copy.deepcopy(progress), kept)
    blockwise(rest, 16)
    assert rest.result.steps == whole.result.steps
    for name, value in whole.adapter.named_parameters():
        assert torch.equal(value, rest.adapter.state[name]), name


SAME = [TokenizedExample([1, 2, 3], 1)] * 4


@pytest.mark.parametrize("block", [7, 16])
def test_saturation_stops_at_the_same_step(block: int) -> None:
    ends = []
    for size in (1, block):
        training = started(sequences=SAME, learning_rate=0.02, epochs=400, stop_when_saturated=True)
        with torch.no_grad():
            training.adapter.model.backbone.norm_f.weight *= 30
        training.schedule = dataclasses.replace(training.schedule, steps_per_epoch=400)  # no evaluation before the stop
        rows, evaluated = blockwise(training, size)
        assert evaluated == [len(rows)]
        ends.append((training.result.steps, training.result.stopped, training.adapter.tensors()))
    assert ends[0][1] is not None
    assert len(ends[0][0]) < 400
    assert ends[0][:2] == ends[1][:2]
    assert all(torch.equal(value, ends[1][2][name]) for name, value in ends[0][2].items())


@pytest.mark.parametrize("block", [7, 16])
def test_divergence_is_found_at_the_same_step(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, ends = TrainStep.backward, []
    for size in (1, block):
        training, taken = started(), itertools.count(1)

        def broken(step: TrainStep, part: Batch, taken: Iterator[int] = taken) -> None:
            plain(step, part)
            step.loss *= math.nan if next(taken) == 9 else 1

        monkeypatch.setattr(TrainStep, "backward", broken)
        with pytest.raises(Diverged, match="not finite at step 9"):
            blockwise(training, size)
        steps = [{name: str(value) for name, value in row.items()} for row in training.result.steps]
        ends.append((steps, training.result.tokens, training.position))
    assert len(ends[0][0]) == 9
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", METHODS)
def test_captured_training_gives_the_losses_of_plain_training(name: str) -> None:
    ends = []
    for capture in (None, Uncaptured()):
        training = started(name, capture=capture)
        rows, evaluated = blockwise(training, training.read_every)
        first = training.warmup.steps
        assert (rows, evaluated) == (list(range(1, first + 23)), [first + 11, first + 22])
        ends.append(training)
    plain, graphs = ends
    assert capture is not None
    assert capture.replays == first + 22 - 3 - 2  # the gate's steps, and the first of each of the two shapes
    for one, two in zip(plain.result.steps, graphs.result.steps, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-3, abs=1e-7)
        assert (one["learning_rate"], one["tokens"]) == (two["learning_rate"], two["tokens"])


def test_captured_training_goes_on_from_a_checkpoint_taken_behind_captures() -> None:
    whole = started(capture=Uncaptured())
    blockwise(whole, 16)
    cut = started(capture=Uncaptured())
    while cut.position.step < 11:
        cut.train_steps()
    progress, kept = cut.state(), {name: value.clone() for name, value in cut.tensors().items()}
    cut.train_steps()
    for training in (cut, started(capture=Uncaptured())):  # in place, and in another process
        training.load(copy.deepcopy(progress), {name: value.clone() for name, value in kept.items()})
        assert training.graphs is not None
        assert not training.graphs.captured
        blockwise(training, 16)
        assert training.result.steps == whole.result.steps


@pytest.mark.parametrize("refuses", [(1, 2), (2,)], ids=["all", "the-second"])
def test_what_cannot_be_captured_is_launched_singly_and_said_once(
    refuses: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    plain = started(capture=Uncaptured())
    blockwise(plain, 16)
    capture = Uncaptured(refuses)
    refusing = started(capture=capture)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(GraphedTrainStep, "reset", lambda graphs: None)
        blockwise(refusing, 16)
    assert refusing.result.steps == plain.result.steps
    assert refusing.graphs is not None
    said = [record.message for record in caplog.records]
    assert len(said) == len(refusing.graphs.fallback) == len(refuses)
    assert all(line.endswith("RuntimeError: operation not permitted when stream is capturing") for line in said)
    assert len(refusing.graphs.captured) == 2 - len(refuses)
    assert capture.captures == (2 if len(refuses) == 2 else 3)  # what a failure has dropped is captured again
